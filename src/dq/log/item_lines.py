"""Items of an embedded queue as record lines: one line each, and all of a batch in one of three ways.

===============  ================================================  =====================================================
a line           when                                              to be read with
===============  ================================================  =====================================================
`"text"`         all items of the batch are UTF-8                  `jq -r .`
`{"base64":…}`   otherwise                                         `jq -r '.base64 | @base64d'`
`65536`          otherwise, and 4 KiB or more: the item's size     the file beside, `<offset>.bytes`, from the place that
                                                                   `raw` in the header names: [position, checksum]
===============  ================================================  =====================================================

A batch is written and read by calls that take all of it: 0.2 us an item of 100 bytes in place of 2. Base64 costs 1.4 us a
KiB to write and 4 to read; so what is no text and worth a second write, of one item or of many, stands as it is in a file of
its own, with a checksum of its own.
"""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from itertools import accumulate, pairwise

import orjson

from dq.config import KIB
from dq.log.format import Malformed

RAW_BYTES_MIN = 4 * KIB
"""Size of a batch from which items that are no text stand raw: there base64 costs more than a second write."""
LOOKED_AT = 64
NO_TEXT = re.compile(rb"[\xc0\xc1\xf5-\xff]|[\0-\x7f][\x80-\xbf]")  # some of what cannot stand in UTF-8
_BEGIN, _BETWEEN, _STOP = b'{"base64":"', b'"}\n{"base64":"', b'"}\n'


def encode(items: list[bytes], size: int) -> bytes | None:
    """The lines of a batch whose items have `size` bytes together; None where they are to stand raw."""
    first = items[0]
    if first.isascii() or not NO_TEXT.search(first, 0, LOOKED_AT):  # a search costs half of an exception
        lines = _text(items, first if len(items) == 1 else b"\n".join(items))
        if lines is not None:
            return lines
    if size >= RAW_BYTES_MIN:
        return None
    if len(items) == 1:
        return b'{"base64":"%b"}\n' % b2a_base64(first, newline=False)
    return _BEGIN + _BETWEEN.join([b2a_base64(item, newline=False) for item in items]) + _STOP


def sizes_of(items: list[bytes]) -> bytes:
    """The lines of a batch that stands raw."""
    return orjson.dumps(list(map(len, items)))[1:-1].replace(b",", b"\n") + b"\n"


def _text(items: list[bytes], joined: bytes) -> bytes | None:
    """The lines if all items are UTF-8, and do not become three times as long by being escaped."""
    try:
        text = joined.decode()
        if len(items) == 1:
            lines = orjson.dumps(text, option=orjson.OPT_APPEND_NEWLINE)
        elif b"\\" not in joined and joined.count(b"\n") == len(items) - 1:
            # Every newline in it is one between two items, and \n in what comes out is nothing else.
            lines = orjson.dumps(text).replace(b"\\n", b'"\n"') + b"\n"
        else:
            lines = b"\n".join([orjson.dumps(item.decode()) for item in items]) + b"\n"
    except UnicodeDecodeError:
        return None
    return lines if len(lines) <= 3 * (len(joined) + 4) else None


def is_raw(lines: bytes) -> bool:
    """Whether the items of a batch stand in the file beside."""
    return lines[:1].isdigit()


def decode(lines: bytes) -> list[bytes]:
    """The items of a batch that is not raw.

    Raises:
        Malformed: they are not what `encode` made.
    """
    try:
        if lines.startswith(b'"'):
            if b"\\" not in lines:
                return lines[1:-2].split(b'"\n"')
            return [text.encode() for text in orjson.loads(b"[%s]" % lines[:-1].replace(b"\n", b","))]
        if lines.startswith(_BEGIN):
            return list(map(a2b_base64, lines[len(_BEGIN) : -len(_STOP)].split(_BETWEEN)))
    except (ValueError, AttributeError, Base64Error) as error:
        raise Malformed(f"they are no items: {error}") from error
    raise Malformed(f"they begin with {lines[:20]!r}, as no items do")


def decode_sizes(lines: bytes) -> list[int]:
    """The sizes of the items of a raw batch. Raises Malformed."""
    try:
        sizes = orjson.loads(b"[%s]" % lines[:-1].replace(b"\n", b","))
    except orjson.JSONDecodeError as error:
        raise Malformed(f"they are no sizes: {error}") from error
    if not all(type(size) is int and size >= 0 for size in sizes):
        raise Malformed("they are no sizes")
    return list(sizes)


def cut(content: bytes, sizes: list[int]) -> list[bytes]:
    """The items that stand in a row in `content`."""
    return [content[begin:stop] for begin, stop in pairwise(accumulate(sizes, initial=0))]
