"""Bytes that are no event, each with its name; and the places at which they are said."""

from __future__ import annotations

import os
import pickle
import random
import struct
from collections.abc import Callable
from pathlib import Path

from raw_client import FRAME_BYTES_MAX, LENGTH, RawClient, envelope, frame

HELLO = b'{"type":"REGISTER","owner":"CLIENT","id":"x","pid":1}'

PLACES: dict[str, Callable[[Path, str], RawClient]] = {
    "a stranger": lambda root, name: RawClient(root),
    "a client": lambda root, name: RawClient.client(root),
    "a publisher": lambda root, name: RawClient.publisher(root, name),
    "a consumer": lambda root, name: RawClient.consumer(root, name, name),
    "a reader": lambda root, name: RawClient.reader(root, name),
    "a listener": lambda root, name: RawClient.listener(root, name),
}


class Explosive:
    """Pickled, it would make a directory wherever it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def line(text: bytes) -> bytes:
    return frame(text + b"\n")


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def _random(seed: int) -> bytes:
    rng = random.Random(seed)
    return rng.randbytes(rng.randrange(1, 2_000))


FRAMES = {
    "26: a length of 0": LENGTH.pack(0),
    "26: a length over the limit": LENGTH.pack(FRAME_BYTES_MAX + 1),
    "26: the greatest length": LENGTH.pack(2**32 - 1),
    "26: a length over the limit and all of its bytes": LENGTH.pack(FRAME_BYTES_MAX + 1) + bytes(100_000),
    "28: HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "28: TLS": bytes.fromhex("16030100c8010000c40303") + bytes(180),
    "28: SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "28: a multiprocessing hello": struct.pack("!i", 20) + b"#CHALLENGE#" + bytes(9),
    "28: NULs": bytes(64),
    "28: pickle": pickle.dumps({"a": [1, 2]}),
    "28: pickle in a frame": frame(pickle.dumps({"a": [1, 2]})),
    "28: pickle with a line end in a frame": line(pickle.dumps({"a": [1, 2]})),
    **{f"28: random bytes {seed}": _random(seed) for seed in range(8)},
    "a frame without a line end": frame(HELLO),
    "an empty line": line(b""),
    "a word": line(b"hello"),
    "half an object": line(HELLO[:-1]),
    "two objects": line(HELLO + HELLO),
    "single quotes": line(HELLO.replace(b'"', b"'")),
    "30: invalid UTF-8": line(HELLO.replace(b'"x"', b'"\xff"')),
    "30: overlong UTF-8": line(HELLO.replace(b'"x"', b'"\xc0\xaf"')),
    "30: surrogates as UTF-8": line(HELLO.replace(b'"x"', b'"\xed\xa0\xbd\xed\xb8\x80"')),
    "30: UTF-8 that ends within a letter": line(HELLO.replace(b'"x"', b'"\xe2\x82"')),
    "31: UTF-16": frame(HELLO.decode().encode("utf-16") + b"\n"),
    "31: UTF-16 without a mark": frame(HELLO.decode().encode("utf-16-le") + b"\n"),
    "31: UTF-32": frame(HELLO.decode().encode("utf-32") + b"\n"),
    "31: UTF-16, line end and all": frame((HELLO.decode() + "\n").encode("utf-16-be")),
    "32: a byte order mark": line(b"\xef\xbb\xbf" + HELLO),
    "33: NaN": line(HELLO.replace(b":1}", b":NaN}")),
    "33: Infinity": line(HELLO.replace(b":1}", b":Infinity}")),
    "33: -Infinity": line(HELLO.replace(b":1}", b":-Infinity}")),
    "33: 1e999": line(HELLO.replace(b":1}", b":1e999}")),
    "34: a lone surrogate": line(HELLO.replace(b'"x"', b'"\\ud800"')),
    "34: a lone low surrogate": line(HELLO.replace(b'"x"', b'"\\udc00x"')),
    "35: 5,000 digits": line(HELLO.replace(b":1}", b":" + b"1" * 5_000 + b"}")),
    "35: 2^64": line(HELLO.replace(b":1}", b":18446744073709551616}")),
    "35: -2^63-1": line(HELLO.replace(b":1}", b":-9223372036854775809}")),
    "35: a leading 0": line(HELLO.replace(b":1}", b":01}")),
    "39: a list": line(b"[]"),
    "39: a number": line(b"1"),
    "39: a text": line(b'"REGISTER"'),
    "39: null": line(b"null"),
    "39: an empty object": line(b"{}"),
    "20: 200,000 levels": line(b'{"type":' + nested(200_000) + b"}"),
    # These are JSON that can be read, but neither shown nor written again without care.
    "20: a type of 1,000 levels": line(b'{"type":' + nested(1_015) + b',"owner":"CLIENT"}'),
    "20: an owner of 1,000 levels": line(b'{"type":"REGISTER","owner":' + nested(1_015) + b"}"),
    "20: a field of 1,000 levels": line(HELLO[:-1] + b',"more":' + nested(1_015) + b"}"),
    "20: objects of 500 levels as a type": line(b'{"type":' + b'{"a":' * 500 + b"1" + b"}" * 501),
    "39: a type of 1 MiB": line(b'{"type":"' + b"x" * 1_000_000 + b'","owner":"CLIENT"}'),
    "39: a field with a name of 1 MiB": line(HELLO[:-1] + b',"' + b"x" * 1_000_000 + b'":1}'),
    "39: an escape in a type": line(b'{"type":"\\u001b]0;x\\u0007","owner":"CLIENT"}'),
    "40: an unknown type": envelope("PING", "CLIENT"),
    "40: an unknown owner": envelope("REGISTER", "ADMIN"),
    "40: a version": envelope("REGISTER", "CLIENT", id="x", pid=1, version=2),
    "40: no type": line(b'{"owner":"CLIENT"}'),
    "40: no owner": line(b'{"type":"REGISTER"}'),
    "40: types of the wrong type": line(b'{"type":1,"owner":true}'),
    "40: a type in lower case": envelope("register", "CLIENT", id="x", pid=1),
}


def waits_for_more(content: bytes) -> bool:
    """Whether the first bytes are a length that may be, of a frame that does not come."""
    if len(content) < LENGTH.size:
        return True
    length = LENGTH.unpack_from(content)[0]
    return 0 < length <= FRAME_BYTES_MAX and length > len(content) - LENGTH.size
