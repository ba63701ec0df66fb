"""Owns how an engine's time becomes its calls' cost: shared out by work done, and closing to the last digit.

Time and money are whole numbers (nanoseconds, quanta). As time passes, its price goes to `idle` while nobody is in the
engine, else to `pending`, one pool for the busy interval. A call that leaves takes its part of the pool:

    pool · w / (w + U)        rounded down; the last one out of a busy interval takes the rest

w is what its tokens weigh (weights.py), U what those still in the engine have done and not paid: until they leave,
nobody knows their tokens, so it is estimated as their time in the engine times the work per time of the calls that
ended lately. So everybody in a busy interval pays the same price for the same work, a call that only waited pays for
the little that it did, and an estimate can shift cost between calls that overlap but never make or lose any. Whole
numbers leave no remainder: at any moment, total = idle + attributed + lost + pending, and nothing is ever negative.

A call whose work nobody knows (it was cut off) is taken to have worked as the others do. One that ends without anybody
being told what it cost (its request goes elsewhere, to be paid there) takes its part as well: that is `lost`.
"""

from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from penstock.contracts.messages import TokenUsage
from services.inference.core.pricing import NANOSECONDS, Rate
from services.inference.core.weights import Calibration

WINDOW_NS: Final = 10 * NANOSECONDS
"""Over how long an engine is watched at a time to learn what its tokens weigh."""
ENDED_MAX: Final = 256
"""Past so many calls the older half of what is known of work per time counts half."""


@dataclass(slots=True)
class Call:
    """A place in the engine."""

    began_ns: int
    inside: bool = True


class Charge(NamedTuple):
    """What one call has to bear: engine time, money in quanta, energy in millijoules."""

    share_ns: int
    quanta: int
    millijoules: int = 0


@dataclass(slots=True)
class Sums:
    """An engine's account: time in nanoseconds, energy in millijoules, the rest in quanta."""

    elapsed_ns: int = 0
    busy_ns: int = 0
    total: int = 0
    idle: int = 0
    attributed: int = 0
    lost: int = 0
    pending: int = 0
    millijoules: int = 0
    requests: int = 0
    """Calls that ended and were charged."""


@dataclass(slots=True)
class _Pace:
    """The work per time of the calls that ended lately."""

    work: int = 0
    residence_ns: int = 0
    ended: int = 0

    def add(self, work: int, residence_ns: int) -> None:
        if self.ended >= ENDED_MAX:
            self.work, self.residence_ns, self.ended = self.work // 2, self.residence_ns // 2, self.ended // 2
        self.work += work
        self.residence_ns += residence_ns
        self.ended += 1


@dataclass(slots=True)
class _Window:
    since_ns: int
    busy_before_ns: int = 0
    """What the engine had been busy when it began."""
    prefill_tokens: int = 0
    decode_tokens: int = 0


@dataclass(slots=True)
class EngineLedger:
    """One life of one engine. All times come from one clock that never goes back, in nanoseconds."""

    rate: Rate
    began_ns: int
    calibration: Calibration = field(default_factory=Calibration)
    sums: Sums = field(default_factory=Sums)
    """From the beginning up to the last time that was named."""
    _calls: int = 0
    _began_sum_ns: int = 0
    _pool_ns: int = 0
    """With the next: what the busy interval has cost and nobody has paid yet. The money is `Sums.pending`."""
    _pool_millijoules: int = 0
    _pace: _Pace = field(default_factory=_Pace)
    _window: _Window = field(init=False)

    def __post_init__(self) -> None:
        self._window = _Window(self.began_ns)

    def begin(self, at_ns: int) -> Call:
        """A call reaches the engine. What is returned ends it."""
        self.advance(at_ns)
        self._calls += 1
        self._began_sum_ns += at_ns
        return Call(at_ns)

    def end(self, call: Call, at_ns: int, usage: TokenUsage) -> Charge:
        """The call leaves the engine, however it ended, with the tokens that it is known to have used."""
        charge = self._leave(call, at_ns, usage)
        self.sums.attributed += charge.quanta
        self.sums.requests += 1
        return charge

    def abandon(self, call: Call, at_ns: int) -> Charge:
        """The call leaves the engine and nobody will be told: its time is lost."""
        charge = self._leave(call, at_ns, TokenUsage())
        self.sums.lost += charge.quanta
        return charge

    def advance(self, at_ns: int, millijoules: int = 0) -> Sums:
        """Time passes, and energy is used; the account up to here."""
        sums = self.sums
        elapsed_ns = at_ns - self.began_ns
        passed_ns = elapsed_ns - sums.elapsed_ns
        if passed_ns < 0:
            raise ValueError("time went back")
        total = self.rate.quanta(elapsed_ns)
        cost = total - sums.total
        sums.elapsed_ns, sums.total = elapsed_ns, total
        sums.millijoules += millijoules
        if self._calls:
            sums.busy_ns += passed_ns
            sums.pending += cost
            self._pool_ns += passed_ns
            self._pool_millijoules += millijoules
        else:
            sums.idle += cost
        if at_ns - self._window.since_ns >= WINDOW_NS:
            window, self._window = self._window, _Window(at_ns, sums.busy_ns)
            busy_seconds = (sums.busy_ns - window.busy_before_ns) / NANOSECONDS
            self.calibration.observe(busy_seconds, window.prefill_tokens, window.decode_tokens)
        return sums

    def copied(self) -> Sums:
        """The account as it is now."""
        return replace(self.sums)

    def _leave(self, call: Call, at_ns: int, usage: TokenUsage) -> Charge:
        if not call.inside:
            raise ValueError("the call has left the engine already")
        self.advance(at_ns)
        call.inside = False
        self._calls -= 1
        self._began_sum_ns -= call.began_ns
        age_ns = at_ns - call.began_ns
        others_age_ns = self._calls * at_ns - self._began_sum_ns
        work = self.calibration.weights.work(usage)
        if work:
            self._pace.add(work, age_ns)
            self._window.prefill_tokens += usage.input
            self._window.decode_tokens += usage.output + usage.reasoning
            # In units of work times the pace's residence, so that no division rounds anybody's work away.
            mine, others = work * self._pace.residence_ns, self._pace.work * others_age_ns
        else:
            mine, others = age_ns, others_age_ns
        return self._taken(mine, mine + others)

    def _taken(self, part: int, whole: int) -> Charge:
        sums = self.sums
        # The last one out finds nobody's time beside its own: it takes all.
        if whole == 0:
            part, whole = 1, self._calls + 1
        share_ns, millijoules = self._pool_ns * part // whole, self._pool_millijoules * part // whole
        charge = Charge(share_ns, sums.pending * part // whole, millijoules)
        self._pool_ns -= share_ns
        self._pool_millijoules -= millijoules
        sums.pending -= charge.quanta
        return charge
