"""Owns identity: every id derives from its cause, so that the same decision always gives the same id.

UUID version 5 (RFC 9562, section 5.5): SHA-1 of a namespace and a name.
"""

import re
from hashlib import sha1
from uuid import UUID, SafeUUID, uuid5

NAMESPACE = UUID("6f0ed0a1-6b0b-5d61-9a63-7a0bb2c1c8b4")
"""uuid5(NAMESPACE_DNS, "penstock"), written out so that nobody can change it by renaming something."""

_NAMESPACE_BYTES = NAMESPACE.bytes
_VERSION_5 = 0x5000_8000_0000_0000_0000
_NAME_BITS = (1 << 128) - 1 & ~0xF000_C000_0000_0000_0000
"""All bits but those of version and variant (RFC 9562, section 5.5)."""
_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))
"""By a digit of a digest, the digit with the variant's bits in it."""
_new = object.__new__
# A UUID refuses to be changed: it is made by its descriptors.
_set_int, _set_is_safe = UUID.__dict__["int"].__set__, UUID.__dict__["is_safe"].__set__
_UNKNOWN = SafeUUID.unknown  # an enumeration looks its members up by Python code

RUN_ID_PATTERN = re.compile(r"[\x20-\x7e]{1,128}")
TENANT_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
DEFAULT_TENANT = "default"


def run_key(tenant: str, run_id: str) -> UUID:
    """The key of a run: unique per tenant and run id, the same wherever the request arrives."""
    # A tenant cannot hold a slash (TENANT_PATTERN), so no two pairs share a name.
    return _named(_NAMESPACE_BYTES, f"{tenant}/{run_id}")


def request_id(run: UUID, step_path: str, attempt: int) -> UUID:
    """The id of one attempt of one step: a redelivery or a replay asks under the same id."""
    return _named(run.int.to_bytes(16, "big"), f"{step_path}#{attempt}")


def _named(namespace: bytes, name: str) -> UUID:
    # The same as uuid5, in a third of the time: every run and every attempt needs one.
    digest = sha1(namespace + name.encode(), usedforsecurity=False).digest()
    made = _new(UUID)
    _set_int(made, int.from_bytes(digest[:16], "big") & _NAME_BITS | _VERSION_5)
    _set_is_safe(made, _UNKNOWN)
    return made


def child_run_id(request: UUID) -> str:
    """The run id of the child run that one attempt of a step asks for."""
    return f"child-{request}"


def engine_session(engine: str, began_at_ns: int) -> UUID:
    """One life of an engine: its name and when it began, in nanoseconds of the wall clock."""
    return uuid5(NAMESPACE, f"engine/{engine}/{began_at_ns}")


def run_id_from_event(source: str, event_id: str) -> str:
    """The run id of a request that names none but came with CloudEvents attributes."""
    # Both may hold any character, so the source is a namespace: no two pairs share a name.
    return str(uuid5(uuid5(NAMESPACE, f"event/{source}"), event_id))


def run_id_from_position(topic: str, partition: int, offset: int) -> str:
    """The run id of a request that names none and came with no attributes at all."""
    return str(uuid5(NAMESPACE, f"position/{topic}/{partition}/{offset}"))


def event_id(cause: UUID, name: str) -> str:
    """The CloudEvents id of what `cause` made happen under `name`; unique per (cause, name)."""
    # The same as str(uuid5(cause, name)), in a third of the time: every record that is written needs one.
    digest = sha1(cause.bytes + name.encode(), usedforsecurity=False).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{_VARIANT[digest[16]]}{digest[17:20]}-{digest[20:32]}"


def span_id(request: UUID) -> str:
    """The W3C span id (16 hex digits) of one attempt of one step."""
    return request.hex[:16]


def traceparent(trace: str, span: str) -> str:
    """A W3C Trace Context header, version 00, sampled."""
    return f"00-{trace}-{span}-01"
