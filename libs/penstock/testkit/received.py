"""Owns received records as tests build them."""

from dataclasses import dataclass, field

from penstock.contracts.envelope import Headers


@dataclass
class Record:
    """A record as a consumer hands it out; all but the value has a default."""

    value: bytes | None
    headers: Headers = field(default_factory=list)
    topic: str = "penstock.task.default.requested.v1"
    partition: int = 0
    offset: int = 0
    timestamp: int = 0
    key: bytes | None = None
