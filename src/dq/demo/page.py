"""The last page of a run: what was done, what was killed, how long everything took, and whether it is all there."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dq.demo.examine import Totals
from dq.demo.kills import BrokerKill, ConsumerKill, Unanswered
from dq.demo.report import Report, Spread

_INDENT = "  "


def show_page(console: Console, report: Report) -> None:
    """Prints it."""
    _heading(console, report)
    _kills(console, report)
    _deliveries(console, report)
    _latencies(console, report)
    _speed(console, report)
    _totals(console, report)
    _verdict(console, report)
    _further(console, report)


def _line(console: Console, text: str = "", style: str = "") -> None:
    """A line as it is: not wrapped, so that a command can be copied whole."""
    console.print(Text(text, style=style), soft_wrap=True)


def _title(console: Console, text: str) -> None:
    _line(console)
    _line(console, text, "bold")


def _heading(console: Console, report: Report) -> None:
    _title(console, f"{len(report.work.payloads):,} {report.work.unit} of {report.work.title}")
    what = "read, parsed and hashed them" if report.work.unit == "files" else "counted their words"
    many = "process" if report.publishers == 1 else "processes"
    _line(console, f"{_INDENT}{report.publishers} {many} sent them as tasks, {report.consumers} {what}.")
    if report.work.left_out:
        _line(console, f"{_INDENT}{report.work.left_out:,} files were left out: their names are not UTF-8.")


def _kills(console: Console, report: Report) -> None:
    if report.consumer_kill is None and report.broker_kill is None:
        if report.to_kill:
            _line(console, f"{_INDENT}Nobody was killed: all was done before anyone could be.")
        return
    _title(console, "Killed with kill -9 while it ran")
    if report.consumer_kill is not None:
        _consumer_kill(console, report, report.consumer_kill)
    if report.broker_kill is not None and report.unanswered is not None:
        _broker_kill(console, report.broker_kill, report.unanswered)


def _consumer_kill(console: Console, report: Report, kill: ConsumerKill) -> None:
    """The name of a task may be long, so it stands on a line of its own."""
    held = f"{kill.in_hand:,} {'record' if kill.in_hand == 1 else 'records'}"
    _line(console, f"{kill.second:5.1f} s  consumer {kill.number} (pid {kill.pid}), with {held} in its hands, at work on")
    _line(console, f"{'':9}{report.work.short(kill.name)}", "cyan")
    _line(console, f"{'':9}in the hands of consumer {kill.by} after {_ms(kill.received_ms)}, begun after {_ms(kill.begun_ms)};")
    _line(console, f"{'':9}consumer {kill.instead[0]} (pid {kill.instead[1]}) was started in its place.")


def _broker_kill(console: Console, kill: BrokerKill, waited: Unanswered) -> None:
    _line(console, f"{kill.second:5.1f} s  PublisherBroker (pid {kill.pid}), with {waited.count:,} records without a receipt;")
    _line(console, f"{'':9}a new one (pid {kill.new_pid}) served after {_ms(kill.ready_ms)};")
    if waited.count:
        _line(console, f"{'':9}those records had their receipts after {_ms(waited.first_ms)} to {_ms(waited.last_ms)}.")


def _deliveries(console: Console, report: Report) -> None:
    _title(console, "Tasks")
    table = _grid(1)
    rows = (
        ("sent", report.sent, "each with a receipt, given when it was on disk"),
        ("handled", report.handled, _shares(report)),
        ("redelivered", report.redelivered, "handed out once more, for their consumer was gone"),
        ("twice", report.twice, "results that came twice, counted once"),
        ("lost", report.lost, ""),
    )
    for name, value, remark in rows:
        table.add_row(f"{_INDENT}{name}", Text(f"{value:,}", style="red" if name == "lost" and value else ""), remark)
    console.print(table)


def _shares(report: Report) -> str:
    shares = [f"{count:,}" for _, count in sorted(report.by_consumer.items())]
    return f"by consumer: {', '.join(shares)}" if len(shares) <= 8 else f"by {len(shares)} consumers"


def _latencies(console: Console, report: Report) -> None:
    _title(console, "Latency, from publish() called")
    table = _grid(2)
    table.add_row("", Text("p50", style="dim"), Text("p99", style="dim"), "")
    for name, spread, remark in (
        ("to the receipt", report.to_receipt, "while all that went on"),
        ("to the handler", report.to_handler, "mostly the wait behind others"),
        ("the same, idle", report.idle, f"{report.idle.count} records with nothing waiting"),
    ):
        table.add_row(f"{_INDENT}{name}", *_both(spread), remark)
    console.print(table)


def _both(spread: Spread) -> tuple[str, str]:
    return _ms(spread.p50), _ms(spread.p99)


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.1f} ms" if milliseconds < 100 else f"{milliseconds:,.0f} ms"


def _speed(console: Console, report: Report) -> None:
    _title(console, "Speed, through the same processes")
    speed = report.speed
    _line(console, f"{_INDENT}{speed.a_second:,.0f} records/s: {speed.records:,} of 210 bytes in {speed.seconds:.1f} s, "
                   "each on disk and acked.")  # fmt: skip


def _totals(console: Console, report: Report) -> None:
    _title(console, "Totals")
    table = _grid(2)
    table.add_row("", Text("through dq", style="dim"), Text("one process", style="dim"), "")
    for name, ours, theirs in _rows(report):
        mark = Text("agree", style="green") if ours == theirs else Text("DIFFER", style="bold red")
        table.add_row(f"{_INDENT}{name}", ours, theirs, mark)
    table.add_row(f"{_INDENT}took", f"{report.seconds:.1f} s", f"{report.direct_seconds:.1f} s", "")
    console.print(table)


def _rows(report: Report) -> list[tuple[str, str, str]]:
    def column(totals: Totals) -> list[str]:
        figures = [f"{value:,}" for value in totals.figures.values()]
        return [f"{totals.tasks:,}", *figures, f"{totals.sha256[:12]}…"]

    names = [report.work.unit, *report.work.figures, "SHA-256"]
    rows = list(zip(names, column(report.totals), column(report.direct), strict=True))
    if report.totals.problems or report.direct.problems:
        rows.insert(-1, ("not parsed", f"{report.totals.problems:,}", f"{report.direct.problems:,}"))
    return rows


def _verdict(console: Console, report: Report) -> None:
    _line(console)
    problems = report.problems()
    if not problems:
        _line(console, f"All agree, and nothing is lost. ({report.all_seconds:.1f} s in all)", "bold green")
    for problem in problems:
        _line(console, f"NOT WELL: {problem}", "bold red")


def _further(console: Console, report: Report) -> None:
    _title(console, "Look further")
    _line(console, f"{_INDENT}the log is in {report.log}, until the next run; its results:")
    _line(console, f"{_INDENT * 2}{report.jq}", "cyan")
    _line(console, f"{_INDENT}your own input: --input DIR (its .py files), FILE or - (each line a task):")
    _line(console, f"{_INDENT * 2}{report.yours}", "cyan")


def _grid(figures: int) -> Table:
    """Names, columns of figures, a remark."""
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(min_width=16)
    for _ in range(figures):
        table.add_column(justify="right", no_wrap=True, min_width=8)
    table.add_column()
    return table
