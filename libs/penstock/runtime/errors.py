"""Owns the exception tree: each name says what the loop that catches it does next.

PenstockError
├── SettingsError     the process does not start: exit code 2, the message names the variable
├── Retryable         try the same again in place, after `after_ms`
├── Permanent         never try it again; answer the failure
├── Poison            the record can never be handled: dead letter it and move on
├── BadRequestError   (runtime.work) what is asked cannot be read, who asks can: answer the failure
├── NotAcknowledged   these records may or may not be on the broker; those not named are
├── NotAllowed        the topic registry does not give this service that topic: a bug of ours
├── Fenced            somebody else owns the partition now: forget what is in memory, take over again or stop
├── Unavailable       Kafka or Postgres is away: wait with back-off and do the same again
└── DeadLetterFailed  a dead letter could not be written: stop the consumer, drop nothing
"""

from collections.abc import Sequence

from penstock.contracts.envelope import Outgoing


class PenstockError(Exception):
    """Whatever this library raises on purpose."""


class SettingsError(PenstockError):
    """The environment does not make settings; the message lists every fault, one a line."""


class Retryable(PenstockError):
    """The same call may succeed later."""

    def __init__(self, reason: str, after_ms: int) -> None:
        super().__init__(reason)
        self.after_ms = after_ms


class Permanent(PenstockError):
    """The same call never succeeds."""


class Poison(PenstockError):
    """The record can never be handled. `answers` are for whoever waits for it, where that can be told."""

    def __init__(self, reason: str, answers: Sequence[Outgoing] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.answers = answers


class NotAcknowledged(PenstockError):
    """`records` are exactly those the broker did not acknowledge, in the order they were sent.

    `permanent` says that sending the same records again cannot help (too large, refused by the broker).
    """

    def __init__(self, records: Sequence[Outgoing], reason: str, *, permanent: bool) -> None:
        super().__init__(f"{len(records)} records not acknowledged: {reason}")
        self.records = records
        self.reason = reason
        self.permanent = permanent


class NotAllowed(PenstockError):
    """The registry lists no such topic for this service."""


class Fenced(PenstockError):
    """Another owner has moved on since we read."""


class Unavailable(PenstockError):
    """A part we stand on does not answer."""


class DeadLetterFailed(PenstockError):
    """A poison record's dead letter was refused for good."""
