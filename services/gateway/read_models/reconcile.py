"""Owns closing the ledger against engine time: hours times price = attributed + idle + lost + down + pending. Pure.

Of each life of an engine (a session of its meter):
- One that was closed has told all its time. What its usage records add up to must be what it attributed: `difference`
  says what is missing (negative: usage was lost) or too much (positive: told twice). It is nought when all is well.
- One that tells no more without having been closed (SIGKILL) is taken to have lived to its last stretch, or to the last
  usage that names it. What no usage record and no idle line explains is `lost`: calls that were cut off.
- One that still tells has `pending` cost: of calls that are in it now.
Until the next life of an engine of the same pool, for at most DOWN_SECONDS_MAX, the accelerator is paid for and does
nothing: `down`. Each life that begins is matched with the one that ended last before it.

Work done again for a request that was paid already counts by its own session (`repeated`): it is in vain, and `lost`.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final
from uuid import UUID

DOWN_SECONDS_MAX: Final = 600
SILENT_STRETCHES: Final = 3
"""A life that has not told for so many of its stretches, and GRACE, has ended."""
GRACE: Final = timedelta(seconds=5)
HOUR: Final = Decimal(3600)
NOUGHT: Final = Decimal(0)


@dataclass(frozen=True, slots=True)
class Life:
    """One session of an engine's meter as the tables have it; all of it None where only usage names it."""

    engine_session: UUID
    engine: str | None
    pool: str | None
    simulated: bool | None
    gpu_type: str | None
    gpus: int | None
    price_per_hour: Decimal | None
    currency: str | None
    since: datetime | None
    until: datetime | None
    stretches: int | None
    last_sequence: int | None
    stretch_ns_max: int | None
    ns: int | None
    total: Decimal | None
    idle: Decimal | None
    attributed: Decimal | None
    lost: Decimal | None
    pending: Decimal | None
    closed: bool | None
    usage_requests: int
    usage_cost: Decimal
    repeated_requests: int
    repeated_cost: Decimal
    usage_last_at: datetime | None


@dataclass(slots=True)
class Account:
    """What one life comes to. Time in seconds times accelerators, the rest in the currency."""

    engine_session: UUID
    engine: str
    pool: str
    simulated: bool
    gpu_type: str
    currency: str
    state: str
    """closed, open, lost; unmetered where no stretch was told."""
    since: datetime
    until: datetime
    gpus: int
    gpu_seconds: Decimal
    price_per_hour: Decimal
    total: Decimal
    attributed: Decimal
    idle: Decimal
    lost: Decimal
    pending: Decimal
    down: Decimal = NOUGHT
    down_gpu_seconds: Decimal = NOUGHT
    difference: Decimal = NOUGHT
    missing: int = 0
    """Stretches that were not told."""


@dataclass(slots=True)
class PoolAccount:
    """What the accelerators of one kind in one pool come to."""

    pool: str
    gpu_type: str
    simulated: bool
    currency: str
    sessions: int = 0
    gpu_hours: Decimal = NOUGHT
    bill: Decimal = NOUGHT
    """GPU-hours times price, computed from the hours alone."""
    attributed: Decimal = NOUGHT
    idle: Decimal = NOUGHT
    lost: Decimal = NOUGHT
    down: Decimal = NOUGHT
    pending: Decimal = NOUGHT
    difference: Decimal = NOUGHT
    """What the ledger's usage has too much (positive) or too little for the bill."""
    missing: int = 0
    accounts: list[Account] = field(default_factory=list)


def reconciled(lives: Iterable[Life], now: datetime) -> list[PoolAccount]:
    """The accounts of all lives, by pool and kind of accelerator."""
    accounts = [_account(life, now) for life in lives]
    for each in _by_place(accounts).values():
        _find_down(each)
    pools = []
    for (pool, gpu_type, simulated, currency), each in sorted(_by_place(accounts).items()):
        pools.append(_pool(PoolAccount(pool, gpu_type, simulated, currency), each))
    return pools


def _by_place(accounts: Iterable[Account]) -> dict[tuple[str, str, bool, str], list[Account]]:
    places: dict[tuple[str, str, bool, str], list[Account]] = defaultdict(list)
    for each in accounts:
        places[each.pool, each.gpu_type, each.simulated, each.currency].append(each)
    return places


def _account(life: Life, now: datetime) -> Account:
    if life.since is None or life.until is None:
        return _unmetered(life, now)
    gpus, price = Decimal(life.gpus or 1), life.price_per_hour or NOUGHT
    used = life.usage_cost + life.repeated_cost
    account = Account(
        engine_session=life.engine_session,
        engine=life.engine or "",
        pool=life.pool or "",
        simulated=bool(life.simulated),
        gpu_type=life.gpu_type or "",
        currency=life.currency or "",
        state="closed" if life.closed else "open" if _still_tells(life, now) else "lost",
        since=life.since,
        until=life.until,
        gpus=int(gpus),
        gpu_seconds=Decimal(life.ns or 0).scaleb(-9) * gpus,
        price_per_hour=price,
        total=life.total or NOUGHT,
        attributed=life.attributed or NOUGHT,
        idle=life.idle or NOUGHT,
        lost=life.lost or NOUGHT,
        pending=life.pending or NOUGHT,
        missing=(life.last_sequence or 0) + 1 - (life.stretches or 0),
    )
    if account.state == "closed":
        account.difference = used - account.attributed
        account.attributed, account.lost = life.usage_cost, account.lost + life.repeated_cost
    elif account.state == "lost":
        _end_without_a_word(account, life)
    return account


def _end_without_a_word(account: Account, life: Life) -> None:
    """It lived to the last usage that names it; what neither that nor idle time explains was cut off."""
    price = account.price_per_hour
    if life.usage_last_at is not None and life.usage_last_at > account.until:
        tail = _seconds(life.usage_last_at - account.until) * account.gpus
        account.until = life.usage_last_at
        account.gpu_seconds += tail
        account.total += tail * price / HOUR
    # Usage says its time in whole milliseconds: it may prove a little more than the clock that it is read from.
    proven = account.idle + life.usage_cost + life.repeated_cost
    if proven > account.total and price:
        account.gpu_seconds += (proven - account.total) * HOUR / price
        account.total = proven
    account.attributed, account.pending = life.usage_cost, NOUGHT
    account.lost = account.total - account.idle - account.attributed


def _unmetered(life: Life, now: datetime) -> Account:
    """Usage of an engine whose account never came: all that is known is what it charged."""
    at = life.usage_last_at or now
    return Account(
        engine_session=life.engine_session,
        engine="",
        pool="",
        simulated=False,
        gpu_type="",
        currency="",
        state="unmetered",
        since=at,
        until=at,
        gpus=0,
        gpu_seconds=NOUGHT,
        price_per_hour=NOUGHT,
        total=NOUGHT,
        attributed=life.usage_cost,
        idle=NOUGHT,
        lost=life.repeated_cost,
        pending=NOUGHT,
        difference=life.usage_cost + life.repeated_cost,
    )


def _still_tells(life: Life, now: datetime) -> bool:
    if life.until is None:
        return False
    stretch = timedelta(microseconds=(life.stretch_ns_max or 0) // 1000)
    return now - life.until <= SILENT_STRETCHES * stretch + GRACE


def _find_down(accounts: Sequence[Account]) -> None:
    ended = sorted((each for each in accounts if each.state in ("closed", "lost")), key=lambda each: each.until)
    ends = [each.until for each in ended]
    for begun in sorted(accounts, key=lambda each: each.since):
        place = bisect_right(ends, begun.since) - 1
        if begun.state == "unmetered" or place < 0:
            continue
        gap = begun.since - ends[place]
        if gap > timedelta(seconds=DOWN_SECONDS_MAX):
            continue
        del ends[place]
        last = ended.pop(place)
        last.down_gpu_seconds = _seconds(gap) * last.gpus
        last.down = last.down_gpu_seconds * last.price_per_hour / HOUR


def _seconds(span: timedelta) -> Decimal:
    return Decimal(span // timedelta(microseconds=1)).scaleb(-6)


def _pool(pool: PoolAccount, accounts: Sequence[Account]) -> PoolAccount:
    for each in sorted(accounts, key=lambda each: (each.since, each.engine_session.bytes)):
        seconds = each.gpu_seconds + each.down_gpu_seconds
        pool.sessions += 1
        pool.gpu_hours += seconds / HOUR
        pool.bill += seconds * each.price_per_hour / HOUR
        pool.attributed += each.attributed
        pool.idle += each.idle
        pool.lost += each.lost
        pool.down += each.down
        pool.pending += each.pending
        pool.missing += each.missing
        pool.accounts.append(each)
    parts = pool.attributed + pool.idle + pool.lost + pool.down + pool.pending
    pool.difference = (parts - pool.bill).quantize(Decimal("1E-9"))
    return pool
