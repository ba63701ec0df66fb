"""Owns blob references: what stands in a message for a value that is too large to travel, and which values those are.

A reference is `{"$blob": "sha256:…", "bytes": n, "media_type": "application/json"}` and nothing else: an object with
another field, or with a digest that is none, is a value like any other. What it stands for lies in the blob store, its
run's tenant's part of it. References nest: the content of one may hold others.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import orjson

INLINE_BYTES_MAX: Final = 65_536
"""JSON bytes of a value that travels as it is; of a larger one its large parts travel as references."""
VALUE_BYTES_MAX: Final = 16 * 1024 * 1024
"""JSON bytes of the largest value that is taken at all, and of the largest blob."""
WHOLE_BYTES_MAX: Final = 64 * 1024 * 1024
"""Bytes of all blobs that one value is put together from: references can repeat, and so mean more than was stored."""
PART_BYTES_MIN: Final = 1_024
"""A smaller field of an object stays in it."""
PARTS_MAX: Final = 16
"""Of the fields of one object that are small enough to travel, how many are taken out of it to make it fit; beyond that
the whole object becomes a reference.
"""
DEPTH_MAX: Final = 64
JSON: Final = "application/json"
MARK: Final = b'"$blob"'
"""In the JSON of every value that holds a reference; JSON without it holds none."""

_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
_MEDIA_TYPE: Final = re.compile(r"[a-z]+/[a-z0-9.+-]{1,100}")
_FIELDS: Final = frozenset({"$blob", "bytes", "media_type"})


@dataclass(frozen=True, slots=True)
class Reference:
    """What is stored: `digest` is the SHA-256 of its bytes in hexadecimal."""

    digest: str
    size_bytes: int
    media_type: str = JSON

    @property
    def is_json(self) -> bool:
        """Whether it stands for a value; anything else, as an image, is passed on as a reference."""
        return self.media_type == JSON

    def to_value(self) -> dict[str, Any]:
        """The reference as it stands in a message."""
        return {"$blob": f"sha256:{self.digest}", "bytes": self.size_bytes, "media_type": self.media_type}


class ValueTooLargeError(ValueError):
    """A value beyond its limit; `path` is where most of it is."""

    def __init__(self, path: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(f"{path} has {size_bytes} bytes, the limit is {limit_bytes}")
        self.path = path


def reference_to(content: bytes, media_type: str = JSON) -> Reference:
    """The reference that stands for a content."""
    return Reference(hashlib.sha256(content).hexdigest(), len(content), media_type)


def parsed_digest(text: str) -> str | None:
    """The hexadecimal digits of `sha256:…`; None for anything else."""
    match = _DIGEST.fullmatch(text)
    return None if match is None else match.group(1)


def reference_of(value: Any) -> Reference | None:
    """The reference that a value is; None where it is a value like any other."""
    if type(value) is not dict or "$blob" not in value or value.keys() != _FIELDS:
        return None
    said, size_bytes, media_type = value["$blob"], value["bytes"], value["media_type"]
    digest = parsed_digest(said) if type(said) is str else None
    if digest is None or type(size_bytes) is not int or size_bytes < 0:
        return None
    if type(media_type) is not str or _MEDIA_TYPE.fullmatch(media_type) is None:
        return None
    return Reference(digest, size_bytes, media_type)


def references_in(value: Any, *, others: bool = False) -> Iterator[Reference]:
    """The references to JSON in a value, with `others` all of them; those inside their contents are not seen."""
    stack = [value]
    while stack:
        each = stack.pop()
        if type(each) is dict:
            found = reference_of(each)
            if found is None:
                stack.extend(reversed(each.values()))
            elif found.is_json or others:
                yield found
        elif type(each) is list:
            stack.extend(reversed(each))


def replaced(value: Any, content: Callable[[Reference], Any]) -> Any:
    """The value with `content` of each reference to JSON in its place, those inside contents included.

    What holds no reference is not copied. Raises what `content` raises, and ValueTooLargeError where the contents come
    to more than WHOLE_BYTES_MAX.
    """
    return _Replacing(content).value(value, 0)


class _Replacing:
    def __init__(self, content: Callable[[Reference], Any]) -> None:
        self._content = content
        self._size_bytes = 0

    def value(self, value: Any, depth: int) -> Any:
        if type(value) is list:
            items = [self.value(item, depth) for item in value]
            return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
        if type(value) is not dict:
            return value
        reference = reference_of(value)
        if reference is not None:
            return self._stood_for(reference, depth) if reference.is_json else value
        fields = {key: self.value(item, depth) for key, item in value.items()}
        return fields if any(new is not value[key] for key, new in fields.items()) else value

    def _stood_for(self, reference: Reference, depth: int) -> Any:
        self._size_bytes += reference.size_bytes
        if self._size_bytes > WHOLE_BYTES_MAX or depth >= DEPTH_MAX:
            raise ValueTooLargeError("what its references stand for", self._size_bytes, WHOLE_BYTES_MAX)
        return self.value(self._content(reference), depth + 1)


@dataclass(frozen=True, slots=True)
class Externalised:
    """A value small enough to travel, and the contents to store before it does."""

    value: Any
    contents: dict[Reference, bytes]


def externalised(value: Any, name: str = "$") -> Externalised:
    """The value in at most INLINE_BYTES_MAX: references in the place of what is large, as deep inside as it can be.

    So the small fields beside a large one stay readable. Raises ValueTooLargeError, whose path begins with `name`, and
    TypeError where the value is not JSON.
    """
    encoded = orjson.dumps(value)
    if len(encoded) > VALUE_BYTES_MAX:
        raise _too_large(value, len(encoded), name)
    contents: dict[Reference, bytes] = {}
    return Externalised(_smaller(value, encoded, contents), contents)


def _smaller(value: Any, encoded: bytes, contents: dict[Reference, bytes]) -> Any:
    if len(encoded) <= INLINE_BYTES_MAX:
        return value
    if type(value) is dict:
        value = {key: _smaller(item, orjson.dumps(item), contents) for key, item in value.items()}
        value = _without_largest(value, contents)
    elif type(value) is list:
        value = [_smaller(item, orjson.dumps(item), contents) for item in value]
    encoded = orjson.dumps(value)
    return value if len(encoded) <= INLINE_BYTES_MAX else _taken_out(encoded, contents)


def _without_largest(value: dict[str, Any], contents: dict[Reference, bytes]) -> dict[str, Any]:
    """The object without its largest fields, as many as it takes for the rest to fit; else the object as it is."""
    excess_bytes = len(orjson.dumps(value)) - INLINE_BYTES_MAX
    sizes = sorted(((len(orjson.dumps(item)), key) for key, item in value.items()), reverse=True)
    chosen: list[str] = []
    for size_bytes, key in sizes[:PARTS_MAX]:
        if excess_bytes <= 0 or size_bytes < PART_BYTES_MIN:
            break
        chosen.append(key)
        excess_bytes -= size_bytes - len(orjson.dumps(Reference("0" * 64, size_bytes).to_value()))
    if excess_bytes > 0:
        return value
    return {key: _taken_out(orjson.dumps(item), contents) if key in chosen else item for key, item in value.items()}


def _taken_out(encoded: bytes, contents: dict[Reference, bytes]) -> dict[str, Any]:
    reference = reference_to(encoded)
    contents[reference] = encoded
    return reference.to_value()


def _too_large(value: Any, size_bytes: int, path: str) -> ValueTooLargeError:
    """Named by the deepest part that is too large by itself."""
    inside: Iterator[tuple[str, Any]] = iter(())
    if type(value) is dict:
        inside = ((f"{path}.{key}", item) for key, item in value.items())
    elif type(value) is list:
        inside = ((f"{path}[{index}]", item) for index, item in enumerate(value))
    for where, item in inside:
        item_bytes = len(orjson.dumps(item))
        if item_bytes > VALUE_BYTES_MAX:
            return _too_large(item, item_bytes, where)
    return ValueTooLargeError(path, size_bytes, VALUE_BYTES_MAX)
