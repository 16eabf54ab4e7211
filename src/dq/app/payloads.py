"""From a payload, which is a JSON value or bytes, to what a handler's first argument is annotated with.

`msgspec` does it: written in C, without dependencies of its own, half a microsecond a payload. It takes dataclasses (nested,
                                       with
Optional, lists, unions), TypedDict, NamedTuple, attrs, enums, datetimes, UUIDs and all built-in types, and is strict: "1" is
no int.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from dq.errors import InvalidSetting

Converter = Callable[[Any], Any]
_AS_THEY_ARE = (bytes,)


def converter_of(annotation: Any) -> Converter | None:
    """What makes the annotated value of a payload, or None where the payload is taken as it is.

    What is returned raises an error for a payload that does not fit.

    Raises:
        InvalidSetting: no JSON value can become what is annotated.
    """
    if annotation is Any or annotation is object:
        return None
    validate = getattr(annotation, "model_validate", None)
    if isinstance(annotation, type) and callable(validate):  # a model of pydantic's
        model: Converter = validate
        return model
    try:
        info = msgspec.inspect.type_info(annotation)
    except (TypeError, ValueError, NameError) as error:
        raise InvalidSetting(f"no payload can become {annotation!r}: {error}") from error
    if isinstance(info, msgspec.inspect.CustomType):
        raise InvalidSetting(
            f"no payload can become {annotation!r}: annotate a dataclass, a TypedDict, dict, list, str, int, float, bool, "
            "bytes, a datetime, a UUID, an Enum, or leave the annotation out"
        )
    return partial(msgspec.convert, type=annotation, builtin_types=_AS_THEY_ARE)
