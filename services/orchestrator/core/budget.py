"""Owns reservations: the worst case of a model call is set aside before it is asked for, and settled by its answer."""

from decimal import Decimal
from typing import Final

import orjson

from penstock.contracts.messages import Budget, Failure, InferenceCompleted, InferenceRequested, Money, RunUsage
from penstock.contracts.model_calls import IMAGE_TOKENS_MAX, INPUT_TOKENS
from penstock.workflow.tiers import Price
from services.orchestrator.core.accounts import CAPS, Account, Cap, accounts, limit_of, spend
from services.orchestrator.core.allowance import Allowance, charge, shortage
from services.orchestrator.core.bursting import bursts, charge_burst, paid_as_burst
from services.orchestrator.core.frames import LeafFrame
from services.orchestrator.core.state import NOTHING, NOTHING_SPENT, Amounts, Run, Step
from services.orchestrator.core.turn import RunFailedError, Turn
from services.orchestrator.core.values import RefusedError

BYTES_PER_TOKEN: Final = 2
"""Of a prompt: English has about four, Chinese three. Digits and code can have fewer; what such a call uses beyond its
reservation is spent when its answer comes, and the next call finds it so."""
MESSAGE_TOKENS: Final = 16
"""What a chat template adds to each message, at most."""
_MILLIONTH: Final = -6


def effective(own: Budget | None, ceiling: Budget | None) -> Budget | None:
    """A run's budget: its own, as far as the workflow's allows it. Both costs must be in one currency."""
    if own is None or ceiling is None:
        return own or ceiling
    calls = [caps.model_calls for caps in (own, ceiling) if caps.model_calls is not None]
    tokens = [caps.tokens for caps in (own, ceiling) if caps.tokens is not None]
    costs = [caps.cost for caps in (own, ceiling) if caps.cost is not None]
    return Budget(
        model_calls=min(calls, default=None),
        tokens=min(tokens, default=None),
        cost=min(costs, key=lambda cost: cost.amount, default=None),
    )


def worst_case(request: InferenceRequested, price: Price | None) -> Amounts:
    """The most that a call can use: its prompt's tokens, estimated from its bytes, and all that it may answer with."""
    inputs = request.inputs or ()
    texts = [*(message.content for message in request.messages), *inputs]
    size_bytes = sum(len(text.encode(errors="surrogatepass")) for text in texts)
    for bound in (request.output_schema, request.choices, request.regex):
        if bound is not None:
            size_bytes += len(orjson.dumps(bound))  # some endpoints count it as part of the prompt
    prompt = -(-size_bytes // BYTES_PER_TOKEN) + MESSAGE_TOKENS * len(request.messages) + INPUT_TOKENS * len(inputs)
    prompt += IMAGE_TOKENS_MAX * sum(len(message.images) for message in request.messages if message.images)
    answer = 0 if request.operation == "embedding" else request.max_tokens
    cost = NOTHING_SPENT
    if price is not None:
        cost = (prompt * price.input_per_million + answer * price.output_per_million).scaleb(_MILLIONTH)
    return Amounts(1, prompt + answer, cost)


def reserve(turn: Turn, leaf: LeafFrame, request: InferenceRequested) -> Failure | None:
    """Sets the worst case of a call aside in all accounts that it counts for; a failure where one has no room for it.

    Raises RunFailedError where that account is the run's own: no block makes do with that.
    """
    counted, tenant = accounts(turn, leaf), turn.facts.tenant
    if not counted and tenant is None and not bursts(leaf.step):
        return None
    step, price = leaf.step, leaf.node.routes[leaf.step.route].price
    needed = worst_case(request, price)
    for account in counted:
        failure = _currency_fault(account, turn.run, price, step.path) or _shortage(account, needed, price, step.path)
        if failure is not None and account.path:
            return failure
        if failure is not None:
            raise RunFailedError(failure)
    if tenant is not None:
        _charge_tenant(turn, tenant, needed, price, step.path)
    if paid_as_burst(leaf):
        charge_burst(turn, turn.at_ms, needed)
    step.reserved = needed
    for account in counted:
        account.reserved += needed
    return None


def _charge_tenant(turn: Turn, tenant: Allowance, needed: Amounts, price: Price | None, path: str) -> None:
    """Takes a call's worst case of its tenant's day. Raises RunFailedError where that does not fit."""
    cost = tenant.caps.cost
    if cost is not None and price is not None and price.currency != cost.currency:
        raise RunFailedError(mixed_currencies(cost.currency, price.currency, path))
    failure = shortage(turn, tenant, needed, price, path)
    if failure is not None:
        raise RunFailedError(failure)
    charge(turn, turn.at_ms, needed)


def settle(turn: Turn, leaf: LeafFrame, message: InferenceCompleted) -> None:
    """An answer came, or a failure: what it used takes the place of what it reserved.

    Raises RunFailedError where its currency is not the run's.
    """
    step, counted = leaf.step, accounts(turn, leaf)  # before the row says what was used: they add up rows
    reserved, step.reserved = step.reserved, None
    used = count(turn.run, step, message)
    for account in counted:
        if reserved is not None:
            account.reserved -= reserved
        spend(turn, account, used)
    if paid_as_burst(leaf):
        charge_burst(turn, step.dispatched_at_ms or turn.at_ms, used - (reserved or NOTHING))
    tenant = turn.facts.tenant
    if tenant is not None:
        charge(turn, step.dispatched_at_ms or turn.at_ms, used - (reserved or NOTHING))
        cap, cost = tenant.caps.cost, message.cost
        if cap is not None and cost is not None and cost.amount and cost.currency != cap.currency:
            raise RunFailedError(mixed_currencies(cap.currency, cost.currency, step.path))


def grant(turn: Turn, leaf: LeafFrame, own: Budget | None) -> Budget | None:
    """What a child run may spend: `own`, as far as something is left; without it, all that is left.

    What it may spend by its own budget is reserved; else children side by side would leave nothing to each other.
    Raises RefusedError where nothing is left, RunFailedError where it is the run that has nothing left.
    """
    counted = accounts(turn, leaf)
    granted = own
    for account in counted:
        spent = [cap for cap in CAPS if (left := _left(account, cap)) is not None and left <= 0]
        if spent:
            failure = _nothing_left(account, spent[0], leaf.step.path)
            if account.path:
                raise RefusedError(failure.code, failure.message)
            raise RunFailedError(failure)
        rest = _all_left(account)
        if granted is not None and granted.cost and rest.cost and granted.cost.currency != rest.cost.currency:
            mixed = mixed_currencies(granted.cost.currency, rest.cost.currency, leaf.step.path)
            raise RefusedError(mixed.code, mixed.message)
        granted = effective(granted, rest)
    if own is not None and granted is not None and counted:
        # Only what it names: of the other caps it may use all that is left, which would leave nothing to its siblings.
        leaf.step.reserved = Amounts(
            model_calls=0 if own.model_calls is None else granted.model_calls or 0,
            tokens=0 if own.tokens is None else granted.tokens or 0,
            cost=NOTHING_SPENT if own.cost is None or granted.cost is None else granted.cost.amount,
        )
        for account in counted:
            account.reserved += leaf.step.reserved
    return granted


def settle_child(turn: Turn, leaf: LeafFrame, used: RunUsage) -> None:
    """A child run ended: what it used counts as if the step had, in the place of what was reserved.

    Raises RunFailedError where its currency is not the run's.
    """
    step, counted = leaf.step, accounts(turn, leaf)  # before the row says what was used: they add up rows
    reserved, step.reserved = step.reserved, None
    amounts = count_child(turn.run, step, used)
    for account in counted:
        if reserved is not None:
            account.reserved -= reserved
        spend(turn, account, amounts)


def _left(account: Account, cap: Cap) -> Decimal | int | None:
    limit = limit_of(account.caps, cap)
    return None if limit is None else limit - getattr(account.spent, cap) - getattr(account.reserved, cap)


def _all_left(account: Account) -> Budget:
    calls, tokens, cost = (_left(account, cap) for cap in CAPS)
    money = None
    if cost is not None and account.caps.cost is not None:
        money = Money(amount=Decimal(cost), currency=account.caps.cost.currency)
    return Budget(
        model_calls=None if calls is None else int(calls), tokens=None if tokens is None else int(tokens), cost=money
    )


def _nothing_left(account: Account, cap: Cap, path: str) -> Failure:
    limit = limit_of(account.caps, cap)
    text = (
        f"the cap of {cap.replace('_', ' ')} is {_shown(limit or 0)}: {_shown(getattr(account.spent, cap))} spent, "
        f"{_shown(getattr(account.reserved, cap))} reserved; nothing is left for a child run, which was not asked for; "
        f"raise {account.where(cap)}"
    )
    return Failure(code="budget_exceeded", message=text, step=path)


def count_child(run: Run, step: Step, used: RunUsage) -> Amounts:
    """Adds what a child run used to its step and to its parent's run. Raises RunFailedError where currencies differ."""
    for total in (step, run.usage):
        total.model_calls += used.model_calls
        total.input_tokens += used.input_tokens
        total.output_tokens += used.output_tokens
    _add_cost(run, step, used.cost if used.cost.amount else None)
    return Amounts(used.model_calls, used.input_tokens + used.output_tokens, used.cost.amount)


def count(run: Run, step: Step, message: InferenceCompleted) -> Amounts:
    """Adds what a call used to its step and its run. Raises RunFailedError where currencies differ."""
    usage = run.usage
    input_tokens = message.usage.input + message.usage.cached_input
    output_tokens = message.usage.output + message.usage.reasoning
    step.model_calls += 1
    step.input_tokens += input_tokens
    step.output_tokens += output_tokens
    usage.model_calls += 1
    usage.input_tokens += input_tokens
    usage.output_tokens += output_tokens
    return Amounts(1, input_tokens + output_tokens, _add_cost(run, step, message.cost))


def _add_cost(run: Run, step: Step, cost: Money | None) -> Decimal:
    usage = run.usage
    if cost is None:
        return NOTHING_SPENT
    if not usage.cost:
        usage.currency = cost.currency
    elif usage.currency != cost.currency:
        raise RunFailedError(mixed_currencies(usage.currency, cost.currency, step.path))
    step.cost += cost.amount
    usage.cost += cost.amount
    return cost.amount


def _shortage(account: Account, needed: Amounts, price: Price | None, path: str) -> Failure | None:
    for cap in CAPS:
        limit = limit_of(account.caps, cap)
        if limit is None:
            continue
        taken = getattr(account.spent, cap) + getattr(account.reserved, cap)
        # What a call without a price will cost is not known: it may be made as long as anything is left.
        unknown = cap == "cost" and price is None
        if taken + getattr(needed, cap) > limit or (unknown and taken >= limit):
            return Failure(code="budget_exceeded", message=_explained(account, cap, limit, needed), step=path)
    return None


def _explained(account: Account, cap: Cap, limit: Decimal | int, needed: Amounts) -> str:
    unit = f" {account.caps.cost.currency}" if cap == "cost" and account.caps.cost is not None else ""
    spent, reserved, unanswered = (
        getattr(amounts, cap) for amounts in (account.spent, account.reserved, account.unanswered)
    )
    never = f" ({_shown(unanswered)} of it by calls whose answer never came)" if unanswered else ""
    return (
        f"the cap of {cap.replace('_', ' ')} is {_shown(limit)}{unit}: {_shown(spent)} spent{never}, "
        f"{_shown(reserved)} reserved by calls in flight, {_shown(getattr(needed, cap))} needed at most by this call, "
        f"which was not sent; raise {account.where(cap)}"
    )


def _shown(value: Decimal | int) -> str:
    return format(value.normalize(), "f") if isinstance(value, Decimal) else str(value)


def _currency_fault(account: Account, run: Run, price: Price | None, path: str) -> Failure | None:
    if account.caps.cost is None:
        return None
    currency = account.caps.cost.currency
    if price is not None and price.currency != currency:
        return mixed_currencies(currency, price.currency, path)
    if run.usage.cost and run.usage.currency != currency:
        return mixed_currencies(currency, run.usage.currency, path)
    return None


def mixed_currencies(one: str, other: str, path: str | None) -> Failure:
    """What a run fails with whose costs cannot be added."""
    text = f"costs in {one} and {other} cannot be added; price all pools, routes and the budget in one currency"
    return Failure(code="currency_mixed", message=text, step=path)
