"""`Exporter`: answers Prometheus over HTTP, beside a manager. It asks for the figures as any other client does."""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
from pathlib import Path
from types import TracebackType

from prometheus_client import start_http_server

from dq.cli.exposition import registry_of
from dq.client.broker import Broker
from dq.client.metrics import Snapshot
from dq.errors import DqError, InUse, InvalidSetting
from dq.model.told import about, words_of

log = logging.getLogger("dq")


class Exporter:
    """A server in threads of its own: who scrapes slowly, or not at all, holds nobody up. A context manager.

    Args:
        root: the data directory.
        port, address: where it listens.

    Raises:
        InUse: another program has the port. InvalidSetting: there is no such address here.
    """

    def __init__(self, root: Path, port: int, address: str) -> None:
        self._root, self._asking = root, threading.Lock()
        self._broker: Broker | None = None
        try:
            self._server, self._thread = start_http_server(port, address, registry_of(self._snapshot))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                why = f"port {port} of {address} is used by another program: choose another --metrics-port"
                raise InUse(why) from error
            raise InvalidSetting(f"metrics cannot be served at {address}, port {port}: {error.strerror or error}") from error
        self.url = f"http://{address}:{self._server.server_port}/metrics"

    def _snapshot(self) -> Snapshot | None:
        with self._asking:
            try:
                self._broker = self._broker or Broker(self._root)
                return self._broker.metrics()
            except DqError as error:  # it is being started, or ends
                log.debug("no metrics: %s", words_of(error), extra=about(error))
                self._forget()
                return None

    def _forget(self) -> None:
        broker, self._broker = self._broker, None
        if broker is not None:
            with contextlib.suppress(DqError):
                broker.close()

    def __enter__(self) -> Exporter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        with self._asking:
            self._forget()
