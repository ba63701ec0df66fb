"""Owns what expressions see of values that travel as references: what they stand for, as soon as they look inside.

A value that is only passed on stays a reference. What references stand for is in the scope, under a name that no
template can have; where it is not known yet, evaluation ends with ContentNeededError: whoever evaluates reads it, and
tries again.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from penstock.contracts.blobs import Reference, ValueTooLargeError, reference_of, references_in, replaced

CONTENTS: Final = "the contents"
"""What the contents of blobs are called in the scope."""

Scope = Callable[[str], Any]


class UnreadableError(ValueError):
    """What a reference stands for cannot be had, now or later; the message says why."""


class ContentNeededError(Exception):
    """What references stand for is not known yet. It is no fault of the expression's, and nothing to be caught here."""

    def __init__(self, tenant: str, references: Sequence[Reference]) -> None:
        super().__init__(", ".join(f"sha256:{each.digest}" for each in references))
        self.tenant = tenant
        self.references = references


class Contents(Protocol):
    """What the references of one run stand for."""

    refers: bool
    """Whether any value of the run may hold a reference: where none does, nothing is looked through for one."""

    def find(self, references: Sequence[Reference]) -> dict[Reference, Any]:
        """What these stand for. Raises ContentNeededError with all that are not known, and UnreadableError."""


def contents_of(scope: Scope) -> Contents | None:
    """The contents in a scope; None where no value there holds a reference."""
    try:
        contents: Contents | None = scope(CONTENTS)
    except KeyError:
        return None
    return contents if contents is not None and contents.refers else None


def whole(scope: Scope, value: Any) -> Any:
    """The value without references to JSON, at any depth. Raises ContentNeededError and UnreadableError."""
    contents = contents_of(scope)
    return value if contents is None else _whole(contents, value)


def opened(scope: Scope, value: Any) -> Any:
    """The value where it is no reference itself, else what it stands for; references inside stay. Raises as `whole`."""
    reference = reference_of(value)
    contents = contents_of(scope) if reference is not None and reference.is_json else None
    return value if contents is None else _opened(contents, value)


def seen(scope: Scope, value: Any, fields: Sequence[str]) -> Any:
    """The value as an expression sees it that reads `value.field.field…`: whole there, as it is elsewhere."""
    contents = contents_of(scope)
    return value if contents is None else _seen(contents, value, fields)


def _whole(contents: Contents, value: Any) -> Any:
    found: dict[Reference, Any] = {}
    wanted = list(references_in(value))
    while wanted:
        found |= contents.find(wanted)
        inner = {each for reference in wanted for each in references_in(found[reference])}
        wanted = sorted(inner - found.keys(), key=lambda each: each.digest)
    try:
        return replaced(value, found.__getitem__) if found else value
    except ValueTooLargeError as error:
        raise UnreadableError(str(error)) from None


def _opened(contents: Contents, value: Any) -> Any:
    reference = reference_of(value)
    while reference is not None and reference.is_json:
        value = contents.find([reference])[reference]
        reference = reference_of(value)
    return value


def _seen(contents: Contents, value: Any, fields: Sequence[str]) -> Any:
    value = _opened(contents, value)
    if not fields or type(value) is not dict or fields[0] not in value:
        return _whole(contents, value)
    inner = _seen(contents, value[fields[0]], fields[1:])
    return value if inner is value[fields[0]] else {**value, fields[0]: inner}
