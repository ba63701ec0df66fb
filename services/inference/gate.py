"""Owns what may go into one engine now: its waiting requests in order, its best batch, the budget of its cache."""

from collections.abc import Callable
from math import ceil
from typing import Final

from services.inference.core.admission import KvBudget, Reservation
from services.inference.core.control import START, BatchControl, weighed
from services.inference.core.expected import ExpectedTokens
from services.inference.core.schedule import Schedule, Waiting
from services.inference.engines.protocol import EngineLoad, Generation
from services.inference.tickets import Ticket

LOAD_SECONDS: Final = 1.0
"""How often the engine is asked for its cache, and answers that take longer than expected are given more of it."""
SERVICE_SECONDS: Final = 1.0
"""What a request is expected to take while nothing was measured."""
SOON_SECONDS: Final = 2.0
"""Fetched is what is likely to begin within this."""
FETCHED_MIN: Final = 16
ANSWERED: Final = frozenset({"stop", "length", "tool_calls"})


class Gate:
    """Lets requests into one engine. `clock` gives seconds, from any origin."""

    def __init__(self, load: Callable[[], EngineLoad], concurrency: int, start: int = START) -> None:
        self.schedule: Final = Schedule[Ticket]()
        self.control: Final = BatchControl(concurrency, start)
        self.budget: Final = KvBudget()
        self.expected: Final = ExpectedTokens()
        self._load: Final = load
        self._looked_at = float("-inf")
        self._inside: Final[set[Ticket]] = set()
        """Those that have a place, from the moment that they were let in until their handlers have returned."""
        self._second = 0
        self._began = 0
        self._per_second = 0.0

    def offer(self, ticket: Ticket) -> None:
        """A request for this engine was fetched."""
        if ticket.expected_tokens:
            ticket.expected_tokens = self.expected.tokens(ticket.step, ticket.expected_tokens)
        cost = ticket.accepted.prompt_tokens + ticket.expected_tokens
        service_ms = 1000 * self.service_seconds(ticket)
        deadline_ms = ticket.work.deadline_at_ms
        ticket.waiting = Waiting(ticket, ticket.lane, ticket.work.request.tenant, max(1, cost), deadline_ms, service_ms)
        self.schedule.offer(ticket.waiting)

    def service_seconds(self, ticket: Ticket) -> float:
        """How long the request is expected to stay in the engine, as of late."""
        per_token = self.control.seconds_per_token
        if per_token is None:
            return SERVICE_SECONDS
        return per_token * weighed(ticket.accepted.prompt_tokens, ticket.expected_tokens)

    def take(self, now_ms: float, clock: float) -> Ticket | None:
        """The next request, with its place; None where none waits or none fits."""
        if clock - self._looked_at >= LOAD_SECONDS:
            self._look(clock)
        taken = self.schedule.take(now_ms, self._fits)
        if taken is None:
            return None
        ticket = taken.item
        accepted = ticket.accepted
        ticket.waiting = None
        ticket.reservation = Reservation(
            self.budget, accepted.prompt_tokens, ticket.expected_tokens, accepted.request.max_tokens
        )
        self._inside.add(ticket)
        self._count(int(clock))
        return ticket

    def withdraw(self, ticket: Ticket) -> None:
        """It waits, and nobody awaits its answer any more: its turn never comes."""
        if ticket.waiting is not None:
            self.schedule.withdraw(ticket.waiting)
            ticket.waiting = None

    def freed(self, ticket: Ticket) -> None:
        """Its place is free again."""
        if ticket.reservation is not None:
            ticket.reservation.release()
            self._inside.discard(ticket)
            ticket.reservation = None

    def began(self, ticket: Ticket, clock: float) -> None:
        """The engine is asked."""
        ticket.mark = self.control.began(clock)
        ticket.began_at = clock

    def ended(self, ticket: Ticket, clock: float, generation: Generation | None) -> None:
        """The engine has answered, or has not (`generation` is None): what there is to learn from it."""
        tokens = 0.0
        if generation is not None:
            usage = generation.usage
            output = usage.output + usage.reasoning
            tokens = weighed(usage.input, output)
            if generation.finish_reason in ANSWERED and output:
                self.expected.learn(ticket.step, output)
        self.control.ended(clock, tokens, clock - (ticket.began_at or clock), ticket.mark)

    @property
    def taken(self) -> int:
        """Places that are taken."""
        return len(self._inside)

    @property
    def best(self) -> int | None:
        """How many in flight are worth having; None while nobody knows."""
        return self.control.limit if self.control.settled else None

    @property
    def soon(self) -> int:
        """How many requests are likely to begin within the next seconds: so many of a lane are worth having here."""
        return max(FETCHED_MIN, ceil(self._per_second * SOON_SECONDS), self.control.limit - len(self._inside))

    def _fits(self, waiting: Waiting[Ticket]) -> bool:
        return len(self._inside) < self.control.limit and self.budget.fits(waiting.cost)

    def _look(self, clock: float) -> None:
        self._looked_at = clock
        tokens_max = self._load().kv_tokens_max
        if tokens_max is not None:
            self.budget.tokens_max = tokens_max
        per_token = self.control.seconds_per_token
        if per_token is None or self.budget.tokens_max is None:
            return
        for ticket in self._inside:  # who is in for longer than its length explains has outgrown it
            if ticket.began_at is not None and ticket.reservation is not None:
                stayed = (clock - ticket.began_at) / per_token
                ticket.reservation.grown(int(stayed - weighed(ticket.accepted.prompt_tokens, 0)))

    def _count(self, second: int) -> None:
        if second != self._second:
            elapsed = min(10, second - self._second)
            self._per_second += (1 - 0.5**elapsed) * (self._began / elapsed - self._per_second)
            self._second, self._began = second, 0
        self._began += 1
