"""Owns the limits on values: what is portable JSON, how large it may be, how much of it the read side sees."""

from typing import Any, Final

import orjson

from penstock.contracts import blobs
from services.orchestrator.core.contents import RunContents

VALUE_BYTES_MAX: Final = 524_288
"""JSON bytes of what one message carries: a prompt, what a step returns, what a row keeps."""
STORED_BYTES_MAX: Final = blobs.VALUE_BYTES_MAX
PREVIEW_BYTES_MAX: Final = 2_048
MESSAGE_CHARACTERS_MAX: Final = 2_000
"""Of what is said about a failure; it stays in the row and goes to the read side."""


VALUE_TOO_LARGE: Final = "value_too_large"
BLOB_UNREADABLE: Final = "blob_unreadable"


class RefusedError(ValueError):
    """A request that must not be made; `code` is that of the step's failure."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class TooLargeError(RefusedError):
    """What a request would carry is beyond its limit; the message names the field."""

    def __init__(self, field: str, size_bytes: int, bytes_max: int = VALUE_BYTES_MAX) -> None:
        super().__init__(VALUE_TOO_LARGE, f"{field} has {size_bytes} bytes; at most {bytes_max} can be sent")


class NotPortableError(ValueError):
    """A value that not every JSON reader can hold, as an integer beyond 64 bits."""


def portable(value: Any, contents: RunContents | None = None) -> tuple[Any, int]:
    """The value as it will be read back, and its size as JSON. Raises NotPortableError.

    `contents` is given where the value comes from outside, and may hold references.
    """
    try:
        encoded = orjson.dumps(value)
    except TypeError as error:
        raise NotPortableError(str(error)) from None
    if contents is not None:
        contents.look(encoded)
    # NaN and infinities become null when they are written; the value in memory must not differ from the stored one.
    if b"null" in encoded:
        value = orjson.loads(encoded)
    return value, len(encoded)


def bytes_max_of(contents: RunContents | None) -> int:
    """How large a request's input and a run's output may be: more, where the shell puts away what is large in them."""
    return VALUE_BYTES_MAX if contents is None or not contents.stores else STORED_BYTES_MAX


def preview(value: Any) -> Any:
    """The value where it is small, else None."""
    if value is None:
        return None
    return value if len(orjson.dumps(value)) <= PREVIEW_BYTES_MAX else None


def shortened(message: str) -> str:
    """A failure's message within its limit."""
    return message if len(message) <= MESSAGE_CHARACTERS_MAX else message[:MESSAGE_CHARACTERS_MAX] + "…"


def text_bytes(text: str) -> int:
    """The size of a text in UTF-8; exact only where that can matter."""
    return len(text) if len(text) * 4 <= VALUE_BYTES_MAX else len(text.encode(errors="surrogatepass"))
