"""Every limit of dq in one frozen value: its unit is the last word of its name, its reason stands beside it."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits that every process of one broker shares."""

    # --- records and batches -----------------------------------------------------------------------------------------
    record_bytes_max: int = 8 * MIB
    """One record line. Half a frame, so that a record and its envelope always fit into one."""
    kept_bytes_max: int = 12 * MIB
    """One record line with what dq itself adds to it: as a dead letter, replayed, delayed. A line that is not JSON grows by a
    third as base64, and 1 MB is left for headers; a frame has room for it. No publisher is let in with more than the above."""
    batch_bytes_max: int = 1 * MIB
    """One batch, unless it is a single larger record. A megabyte is written at the disk's full rate already."""
    batch_records_max: int = 10_000
    """One batch. Bounds the line places that are held while a batch is handed out in parts."""
    batch_topics_max: int = 16
    """Topics named in a batch header; beyond that it says `*` and is opened to be filtered."""

    # --- the log -----------------------------------------------------------------------------------------------------
    segment_bytes: int = 64 * MIB
    """A segment is closed at this size. Disk comes back by the segment; 64 MiB is scanned in about 0.2 s."""
    commit_bytes_max: int = 4 * MIB
    """One commit of a bucket, and the record that goes beyond it. Recovery takes so much for the trace of a torn commit; more
    is damage."""
    dedupe_batches: int = 32
    """Batches that are remembered for each publisher and bucket. Twice what a client keeps in flight."""
    dedupe_publishers_max: int = 10_000
    """Publishers that a bucket remembers; the one longest silent goes first."""
    dedupe_seconds: float = 3600.0
    """A publisher silent for this long is forgotten."""
    index_bytes: int = 1 * MIB
    """A reader keeps one (offset, position) for so many bytes: 16 bytes a MiB of backlog."""
    read_bytes: int = 1 * MIB
    """What a reader takes from the disk at once."""
    trim_seconds: float = 60.0
    """How often it is looked whether settled segments have become old."""
    look_seconds: float = 1.0
    """How often it is looked which records have become too old for a stream with `max_age`, and whether its `ttl` is over."""
    look_seconds_max: float = 0.02
    """What one such look may take of a turn; with thousands of streams the rest is looked at in the next turns."""
    clock_jump_seconds: float = 3600.0
    """When the wall clock has leapt ahead by more since the last look, nothing is dropped for its age at this one."""
    removed_ranges_max: int = 100_000
    """Ranges of records that were taken out of one stream: 3 MB in its file, and as much in memory."""
    once_keys_max: int = 1_000_000
    """Keys of `publish(once=)` that one stream remembers: 125 MB. One more is refused, and none is forgotten early."""
    once_waiting_bytes_max: int = 64 * MIB
    """Records with such keys that wait until the keys of their stream are read; with more, everybody waits for that."""
    reserve_bytes: int = 8 * MIB
    """Kept free beside the sinks, so that acks go on when the disk is full."""
    memory_bytes_max: int = 256 * MIB
    """One bucket of a stream that is kept in memory; more is refused until consumers have settled some."""
    backend_seconds: float = 10.0
    """How long one call of a backend class in the other form may take: as long as `publish()` waits; others wait for it."""
    fetch_records: int = 1_000
    """Records that such a class is asked for at once."""
    streams_max: int = 10_000
    """Streams of one directory."""
    open_files_max: int = 512
    """Segments a process keeps open; the one longest unused is closed first."""

    # --- pipes -------------------------------------------------------------------------------------------------------
    frame_bytes_max: int = 16 * MIB
    """One frame on a pipe. Checked before anything is allocated."""
    pipe_bytes: int = 1 * MIB
    """Asked of the kernel for each direction of a pipe: a batch of 500 records goes through in one write."""
    outgoing_bytes_max: int = 64 * MIB
    """What may wait to be written to one client before it is cut off."""
    clients_max: int = 10_000
    """Connections to one broker."""
    hello_seconds: float = 5.0
    """A connection that has not said who it is by then is closed."""
    accept_pause_seconds: float = 0.25
    """How long nobody is let in after the manager ran out of descriptors; else it would ask the kernel in a circle."""

    # --- clients -----------------------------------------------------------------------------------------------------
    batch_records: int = 500
    """Default size of a batch: 105 KB of 210-byte records, where the cost of a batch is spread thin already."""
    in_flight_batches: int = 16
    """Batches a publisher sends ahead of their answers, for each bucket: it hides a sync behind 8,000 records."""
    in_flight_once: int = 256
    """Records with a key for `once` a publisher sends ahead of their answers, for each bucket: each is a batch of its own."""
    waiting_bytes_max: int = 64 * MIB
    """What `submit()` lets wait before it blocks."""
    publish_timeout_seconds: float = 10.0
    """How long `publish()` waits for its answer."""
    reconnect_timeout_seconds: float = 30.0
    """How long a client looks for a broker that went away."""
    flush_seconds: float = 0.005
    """An ack is on its way after this at the latest."""
    priority_turn: int = 8
    """Of so many offers of a sink, the last goes to the priority that has waited longest, so that none starves: the lowest of
    ten gets every 80th at the least, and what is urgent 7 of 8."""
    prefetch_seconds: float = 0.05
    """Work a consumer with `prefetch="auto"` keeps in hand: a hundred times the way to the broker and back."""
    prefetch_records_max: int = 50_000
    """Records a consumer may hold."""
    prefetch_bytes_max: int = 16 * MIB
    """Bytes of records a consumer may hold."""
    slow_task_seconds: float = 1.0
    """When one task runs longer than this the client gives back what it has not started."""

    # --- sinks -------------------------------------------------------------------------------------------------------
    task_bytes: int = 256 * KIB
    """Record bytes of one TASK event, unless a single record is larger: one decode stays inside the processor's cache."""
    ack_grace_seconds: float = 20.0
    """A lease without a sign of life ends after this."""
    reconnect_seconds: float = 5.0
    """Leases found in a sink's log are kept for so long after a start, for consumers that come back."""
    later_seconds: float = 60.0
    """A retry that waits for longer waits among the delayed records, so that it keeps no segment of its stream on disk."""
    confirm_seconds: float = 0.05
    """An ack that nobody waits for is confirmed along with the next lease, after this at the latest."""
    sink_sync_seconds: float = 1.0
    """Sinks' logs are flushed to disk this often."""
    sink_segment_bytes: int = 16 * MIB
    """A sink's log begins a new segment, with a snapshot, at this size."""

    holdings_max: int = 1_000
    """Leases told of in one answer to who holds what: 1 MB. There may be 50,000 of one consumer."""

    # --- broadcasts --------------------------------------------------------------------------------------------------
    channels_max: int = 1_000
    """Channels of one listener."""
    signals_waiting_max: int = 1_000
    """Signals a listener may have before it without having answered; one more, and it is dropped: it does not read."""
    signals_waiting_bytes_max: int = 16 * MIB
    """The same in bytes, unless it is a single larger one."""
    broadcasts_open_max: int = 1_000
    """Broadcasts that one teller may wait for at a time."""
    listener_failures_max: int = 3
    """A listener that fails so often in a row is dropped."""
    broadcast_timeout_seconds: float = 5.0
    """How long a broadcast waits for its listeners."""

    pattern_seconds: float = 0.1
    """Of a processor, that the pattern of a sink may take for one topic: while it is tried, nobody else is served."""

    # --- watching ----------------------------------------------------------------------------------------------------
    watchers_max: int = 16
    """Watchers of the envelopes of one process: each costs it a write a turn."""
    line_bytes_max: int = 1 * MIB
    """An envelope with a longer line is not shown to watchers."""

    # --- processes ---------------------------------------------------------------------------------------------------
    lock_wait_seconds: float = 5.0
    """How long a broker waits for the lock of a dying predecessor."""
    status_seconds: float = 2.0
    """How long a question for figures waits for a broker that is being replaced."""
    start_seconds: float = 30.0
    """How long a starter waits for a manager to be ready; a large log is checked in this time."""
    stop_seconds: float = 10.0
    """How long an ordered stop may take before what is left is killed."""
    linger_seconds: float = 10.0
    """A manager started by `connect(start=True)` leaves this long after its last client."""
    watch_seconds: float = 1.0
    """How often the manager looks whether its directory and its socket are still there: four `lstat`, some 10 us."""
    restart_backoff_seconds: float = 0.05
    """Before the restart of a broker that ended by itself; doubles up to the next figure. After a kill it is at once."""
    restart_backoff_seconds_max: float = 5.0
    """The longest wait before a restart."""


LIMITS = Limits()
