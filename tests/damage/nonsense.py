"""What can stand in a field under a right checksum and was never meant to."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import strategies as st

DEPTHS = (90, 250, 500, 1_000, 1_020, 1_500, 200_000)
"""orjson reads 1,024 levels and writes 254, the interpreter compares and shows some 1,000."""


def nested(depth: int, brackets: bytes = b"[]") -> bytes:
    """A list in a list in a list, or with b"{}" an object in an object, as JSON."""
    opened, closed = (b"[", b"]") if brackets == b"[]" else (b'{"":', b"}")
    return opened * depth + b"0" + closed * depth


VALUES: dict[str, bytes] = {
    "missing": b"",
    "null": b"null",
    "true": b"true",
    "text": b'"1"',
    "empty text": b'""',
    "long text": b'"%s"' % (b"x" * 9_000),
    "negative": b"-1",
    "float": b"1.5",
    "whole float": b"1.0",
    "minus zero": b"-0.0",
    "huge float": b"1e308",
    "2**63": b"%d" % 2**63,
    "2**64-1": b"%d" % (2**64 - 1),
    "2**64": b"%d" % 2**64,
    "10**4000": b"1%s" % (b"0" * 4_000),
    "list": b"[]",
    "list of one": b"[0]",
    "object": b"{}",
    "NaN": b"NaN",
    "1e999": b"1e999",
    "half a surrogate": b'"\\ud800"',
    "no UTF-8": b'"\xff\xfe"',
    **{f"{depth} lists": nested(depth) for depth in DEPTHS},
    **{f"{depth} objects": nested(depth, b"{}") for depth in DEPTHS[:-1]},
}


def with_fields(fields: dict[str, bytes]) -> bytes:
    """An object of values that are JSON already, without its closing brace."""
    return b"{" + b",".join(b"%s:%s" % (orjson.dumps(name), value) for name, value in fields.items())


def with_field(fields: dict[str, Any], key: str, value: bytes) -> bytes:
    """An object as JSON without its closing brace, in which `key` has other bytes; b"" leaves the key out."""
    written = {name: orjson.dumps(kept) for name, kept in fields.items()} | {key: value}
    return with_fields({name: kept for name, kept in written.items() if kept})


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.sampled_from([-1, 0, 1, 2, 3, 7, 2**53, 2**62, 2**63, 2**64 - 1])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["emails", "orders", "a", "../..", "a/b", "\0", ""])
)
JSON = st.recursive(
    SCALARS.map(orjson.dumps) | st.sampled_from([90, 250, 990, 1_010]).map(nested),
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda values: b"[%s]" % b",".join(values))
        | st.dictionaries(st.text(max_size=4), inner, max_size=4).map(lambda fields: with_fields(fields) + b"}")
    ),
    max_leaves=8,
)
"""Any JSON value, as bytes: what is nested deep can neither be compared nor shown."""
