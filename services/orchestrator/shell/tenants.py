"""Owns tenants' daily budgets as one instance holds them: slices of each day, claimed from the store when used up.

All instances together never hold more of a day than the cap: the store gives out slices under a lock, to each home its
own. What a slice is used for is written with the batch that uses it, so that whoever takes the home over goes on with
it. A claim is a round trip, but one for a slice, not for a record. Deciding is not held up by it: it goes ahead, and a
batch that used more than is held is decided again after the claim, before anything of it is written.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from penstock.contracts.messages import Budget
from services.orchestrator.core.allowance import Allowance, day_of
from services.orchestrator.core.bursting import OWNER
from services.orchestrator.core.limits import CAPS, Cap, limit_of
from services.orchestrator.core.state import NOTHING, Amounts
from services.orchestrator.shell.store import Charge, Slice, SliceClaim

ANY_TENANT: Final = "*"
SLICES_PER_HOME: Final = 20
"""A slice is this part of a home's even share: at most 5 % of a cap lies in slices that other homes cannot use."""
RECHECK_MS: Final = 5_000
"""How long a cap that was found used up is taken to be so."""

Key = tuple[str, int, int]
"""(tenant, day, home)."""


@dataclass(slots=True)
class _Held:
    granted: Amounts = NOTHING
    used: Amounts = NOTHING


class TenantBudgets:
    """The slices that this instance holds. `homes`: how many there are in all."""

    def __init__(self, budgets: Mapping[str, Budget], homes: int) -> None:
        self._budgets = budgets
        self._homes = homes
        self._held: dict[Key, _Held] = {}
        self._used_up: dict[tuple[Key, Cap], int] = {}
        """Until when a cap is taken to have nothing left to claim."""

    @property
    def there(self) -> bool:
        """Whether any tenant has a budget."""
        return bool(self._budgets)

    def caps(self, tenant: str) -> Budget | None:
        """A tenant's daily budget; None where it has none."""
        own = self._budgets.get(tenant)
        if own is not None:
            return own
        return self._budgets.get(f"{OWNER}{ANY_TENANT}" if tenant.startswith(OWNER) else ANY_TENANT)

    def allowance(self, tenant: str, home: int, at_ms: int) -> Allowance | None:
        """What a decision has to know of the tenant's day."""
        caps = self.caps(tenant)
        if caps is None:
            return None
        key = (tenant, day_of(at_ms), home)
        left: dict[Cap, Decimal | int] = {}
        for cap in CAPS:
            if self._used_up.get((key, cap), 0) > at_ms:
                held = self._held.get(key) or _Held()
                left[cap] = getattr(held.granted, cap) - getattr(held.used, cap)
        return Allowance(tenant, caps, left)

    def use(self, charges: Iterable[Charge]) -> None:
        """Decisions of this batch take this from slices; `give_back` undoes it."""
        for charge in charges:
            key = (charge.tenant, charge.day, charge.home)
            held = self._held.get(key)
            if held is None:
                held = self._held[key] = _Held()
            held.used += charge.amounts

    def give_back(self, charges: Iterable[Charge]) -> None:
        """The batch was not written."""
        for charge in charges:
            self._held[charge.tenant, charge.day, charge.home].used -= charge.amounts

    def shortfalls(self, charges: Iterable[Charge], at_ms: int) -> list[SliceClaim]:
        """What has to be claimed before a batch with these charges may be written: in the store's order of locks."""
        claims = []
        for tenant, day, home in sorted({(charge.tenant, charge.day, charge.home) for charge in charges}):
            caps, held = self.caps(tenant), self._held[tenant, day, home]
            if caps is None:
                continue
            wanted: dict[Cap, Decimal | int] = {}
            for cap in CAPS:
                lacking = getattr(held.used, cap) - getattr(held.granted, cap)
                limit = limit_of(caps, cap)
                if limit is None or lacking <= 0 or self._used_up.get(((tenant, day, home), cap), 0) > at_ms:
                    continue
                wanted[cap] = max(lacking, _slice(limit, self._homes))
            if wanted:
                claims.append(SliceClaim(tenant, day, home, _amounts(wanted), caps))
        return claims

    def take(self, claims: Sequence[SliceClaim], slices: Sequence[Slice], at_ms: int) -> list[tuple[str, Cap]]:
        """What the store gave; answers with the caps of which it did not give all that was wanted."""
        used_up: list[tuple[str, Cap]] = []
        for claim, given in zip(claims, slices, strict=True):
            key = (claim.tenant, claim.day, claim.home)
            self._held[key] = _Held(given.granted, given.used)
            for cap in CAPS:
                if getattr(given.given, cap) < getattr(claim.wanted, cap):
                    self._used_up[key, cap] = at_ms + RECHECK_MS
                    used_up.append((claim.tenant, cap))
        return used_up

    def surplus(self, charges: Iterable[Charge]) -> list[SliceClaim]:
        """What to give back to other homes, as negative claims: reservations are larger than what calls then use."""
        claims = []
        for tenant, day, home in sorted({(charge.tenant, charge.day, charge.home) for charge in charges}):
            caps, held = self.caps(tenant), self._held.get((tenant, day, home))
            if caps is None or held is None:
                continue
            extra: dict[Cap, Decimal | int] = {}
            for cap in CAPS:
                limit = limit_of(caps, cap)
                if limit is None:
                    continue
                left, slice_size = getattr(held.granted, cap) - getattr(held.used, cap), _slice(limit, self._homes)
                if left > 4 * slice_size:
                    extra[cap] = slice_size - left
            if extra:
                claims.append(SliceClaim(tenant, day, home, _amounts(extra), caps))
        return claims

    def forget(self, homes: Collection[int]) -> None:
        """Somebody else owns these now, and what is left of their slices."""
        self._held = {key: held for key, held in self._held.items() if key[2] not in homes}
        self._used_up = {place: until for place, until in self._used_up.items() if place[0][2] not in homes}

    def trim(self, at_ms: int) -> None:
        """Forget days before yesterday."""
        first = day_of(at_ms) - 1
        if any(key[1] < first for key in self._held):
            self._held = {key: held for key, held in self._held.items() if key[1] >= first}
            self._used_up = {place: until for place, until in self._used_up.items() if place[0][1] >= first}


def with_bursts(tenants: Mapping[str, Budget], bursts: Mapping[str, Budget]) -> dict[str, Budget]:
    """Tenants' budgets, and beside them what they may spend on bursts, as days of their own."""
    return {**tenants, **{f"{OWNER}{tenant}": budget for tenant, budget in bursts.items()}}


def added_up(charges: Iterable[Charge]) -> list[Charge]:
    """One charge for each tenant, day and home."""
    sums: dict[Key, Amounts] = {}
    for charge in charges:
        key = (charge.tenant, charge.day, charge.home)
        sums[key] = sums.get(key, NOTHING) + charge.amounts
    return [Charge(*key, amounts) for key, amounts in sorted(sums.items(), key=lambda item: item[0])]


def _slice(limit: Decimal | int, homes: int) -> Decimal | int:
    parts = SLICES_PER_HOME * homes
    return limit / parts if isinstance(limit, Decimal) else max(1, limit // parts)


def _amounts(by_cap: Mapping[Cap, Decimal | int]) -> Amounts:
    return Amounts(
        int(by_cap.get("model_calls", 0)), int(by_cap.get("tokens", 0)), Decimal(by_cap.get("cost", Decimal(0)))
    )
