"""Owns reading a record's JSON for the tables: straight into the few fields that columns and keys are made of.

The tables hold the body as it came. What no column needs is passed over unread: that costs a third of making objects of
all that a body holds. Types and bounds are checked on the way; a refusal names the path of the fault.
"""

from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Final, Generic, TypeVar
from uuid import UUID

import msgspec
import orjson
from asyncpg.pgproto import pgproto

from penstock.contracts.envelope import MalformedEnvelopeError, decode
from penstock.runtime.kafka.records import Received

TEXT_MAX: Final = 512
INTEGER_MAX: Final = 2**63 - 1
EXPONENT_MAX: Final = 30
DIGITS_MAX: Final = 19
SECONDS_MIN: Final = datetime(1, 1, 1, tzinfo=UTC).timestamp()
SECONDS_END: Final = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
NOUGHT: Final = Decimal(0)

Text = Annotated[str, msgspec.Meta(max_length=TEXT_MAX)]
"""A string that fits a key."""
Count = Annotated[int, msgspec.Meta(ge=0, le=INTEGER_MAX)]
"""A whole number from nought."""
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
"""An RFC 3339 time with its offset."""

_PLAIN: Final = ("content-type", b"application/json")

S = TypeVar("S", bound=msgspec.Struct)


class MalformedRecordError(ValueError):
    """The record cannot be understood; the message names the path of the fault."""


class Form(Generic[S]):
    """Reads the bodies of one kind of record."""

    __slots__ = ("_decode", "_shape")

    def __init__(self, shape: type[S]) -> None:
        self._decode = msgspec.json.Decoder(shape).decode
        self._shape = shape

    def read(self, body: bytes) -> S:
        """The fields, with nothing in them that Postgres text cannot hold. Raises MalformedRecordError."""
        try:
            if b"\\" in body and b"\\u0000" in body:  # one byte is found ten times as fast as six
                return msgspec.convert(_without_nul(orjson.loads(body)), self._shape)
            if not body.isascii():
                body.decode()  # what is passed over must be text as well: people will read the whole body
            return self._decode(body)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise MalformedRecordError(f"$: {error}") from error


def body_of(record: Received) -> bytes:
    """The JSON that a record holds. Raises MalformedRecordError."""
    value = record.value
    if value is not None and _PLAIN in record.headers:
        return value  # what the attributes say is of no use to the tables
    try:
        _, body = decode(record.topic, record.partition, record.offset, record.timestamp, record.headers, value)
    except MalformedEnvelopeError as error:
        raise MalformedRecordError(str(error)) from error
    return body


def key(name: str, value: str) -> UUID:
    """A UUID; parsed in C: an eighth of the standard library's time."""
    try:
        identifier: UUID = pgproto.UUID(value)
    except ValueError as error:
        raise MalformedRecordError(f"$.{name}: expected a UUID") from error
    return identifier


def seconds(name: str, at: datetime) -> float:
    """A moment as seconds since 1970 UTC, exact to the microsecond. What no calendar holds in UTC is refused."""
    number = at.timestamp()
    if not SECONDS_MIN <= number < SECONDS_END:
        raise MalformedRecordError(f"$.{name}: not between the years 1 and 9999")
    return number


def amount(name: str, value: str) -> Decimal:
    """A decimal string from nought."""
    if value == "0":
        return NOUGHT  # what tasks and tools cost
    try:
        number = Decimal(value) if len(value) <= TEXT_MAX else None
    except InvalidOperation:
        number = None
    if number is None or not number.is_finite() or number < 0 or abs(number.adjusted()) > EXPONENT_MAX:
        raise MalformedRecordError(f"$.{name}: expected a decimal string from 0")
    return number


def nanoseconds(name: str, value: str) -> int:
    """A decimal string of seconds from nought."""
    if len(value) <= DIGITS_MAX and value.isascii():
        whole, _, fraction = value.partition(".")
        if whole.isdigit() and fraction.isdigit() and len(fraction) <= 9:  # as we write them: half the time
            return int(whole + fraction.ljust(9, "0"))
    number = int(amount(name, value).scaleb(9))
    if number > INTEGER_MAX:
        raise MalformedRecordError(f"$.{name}: too many seconds")
    return number


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd")
    if isinstance(value, dict):
        return {_without_nul(name): _without_nul(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_nul(item) for item in value]
    return value
