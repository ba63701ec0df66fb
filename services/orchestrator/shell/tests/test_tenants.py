"""Owns the stories of tenants' daily budgets: slices of a day, over homes, owners, restarts and midnight."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.contracts import topics
from penstock.contracts.messages import Budget, InferenceRequested, Money
from penstock.runtime.errors import Unavailable
from penstock.testkit.builders import a_chain, a_definition, a_model, succeeded, tokens
from services.orchestrator.core.allowance import DAY_MS, day_of
from services.orchestrator.core.state import NOTHING, Amounts
from services.orchestrator.shell.memory_store import MemoryStore
from services.orchestrator.shell.store import Batch, Charge, RunTakenError, SliceClaim
from services.orchestrator.shell.tenants import RECHECK_MS, TenantBudgets, added_up
from services.orchestrator.shell.testing import FINISHED, BreakingStore, World

CALLS = topics.INFERENCE_REQUESTED.named(pool="small", lane="standard")
PRICE = {"input_per_million": "100", "output_per_million": "1000"}
TIERS = {"small": [{"pool": "small", "model": "first", "price": PRICE}]}
NEEDED = Amounts(1, 166, Decimal("0.1066"))
"""Of each call."""


def a_call(step_id: str) -> dict[str, Any]:
    """A model step that needs NEEDED."""
    return a_model(step_id, prompt="x" * 100, max_tokens=100)


async def a_world(
    budget: Budget | None, *homes: int, store: MemoryStore | None = None, tenant: str = "default", at_ms: int = 0
) -> World:
    """An owner that knows a workflow of two model calls."""
    world = World(store, budgets={} if budget is None else {tenant: budget}, homes=2)
    world.now_ms += at_ms
    await world.publish(a_definition(a_chain(a_call("one"), a_call("two")), tiers=TIERS))
    await world.own(*(homes or (0, 1)))
    return world


def calls_of(world: World) -> list[InferenceRequested]:
    """The model calls sent since the last take."""
    return [InferenceRequested.model_validate(body) for body in world.wire.take(CALLS)]


def failures_of(world: World) -> list[tuple[str, str]]:
    """The failures of runs that ended since the last take."""
    return [(body["error"]["code"], body["error"]["message"]) for body in world.wire.take(FINISHED)]


async def the_slice(world: World, home: int = 0, at_ms: int | None = None) -> tuple[Amounts, Amounts]:
    """What a home holds of the day, and has used of it."""
    day = day_of(world.now_ms if at_ms is None else at_ms)
    (found,) = await world.store.claim_slices([SliceClaim("default", day, home, NOTHING, Budget())])
    return found.granted, found.used


async def answer(world: World, call: InferenceRequested, **fields: Any) -> None:
    """A call is answered."""
    body = succeeded(call, "yes", **fields).to_json()
    await world.owner.process([world.record(topics.INFERENCE_COMPLETED.name, body, call.home)])


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        (Budget(model_calls=3), "the cap of model calls of the tenant default is 3 a day: 0 left, 1 needed at most"),
        (Budget(tokens=500), "the cap of tokens of the tenant default is 500 a day: 2 left, 166 needed at most"),
        (Budget(cost=Money(amount="0.33")), "is 0.33 USD a day: 0.0102 left, 0.1066 needed at most by this call"),
    ],
)
async def test_a_tenant_uses_no_more_than_its_day_allows(budget: Budget, says: str) -> None:
    world = await a_world(budget, 0)

    await world.owner.process([world.request(f"order-{number}") for number in range(5)])

    assert [call.run_id for call in calls_of(world)] == ["order-0", "order-1", "order-2"]
    failures = failures_of(world)
    assert [code for code, _ in failures] == ["budget_exceeded"] * 2
    assert says in failures[0][1]
    assert "raise PENSTOCK_ORCHESTRATOR_TENANT_BUDGETS of the orchestrator" in failures[0][1]
    assert failures[0][1].endswith("or redrive the run after 2026-01-02T00:00:00.000Z")
    (cap,) = [name for name in ("model_calls", "tokens", "cost") if getattr(budget, name) is not None]
    used_up = {"tenant": "default", "cap": cap}
    assert world.metrics.get_sample_value("penstock_tenant_budget_used_up_total", used_up) == 1


async def test_tenants_without_a_budget_are_not_counted() -> None:
    world = await a_world(Budget(model_calls=1), 0, tenant="other")

    await world.owner.process([world.request(f"order-{number}") for number in range(3)])

    assert len(calls_of(world)) == 3
    assert await the_slice(world) == (NOTHING, NOTHING)


async def test_a_budget_for_any_tenant_holds_for_each_that_has_none_of_its_own() -> None:
    world = await a_world(Budget(model_calls=1), 0, tenant="*")

    await world.owner.process([world.request(f"order-{number}", tenant=f"t{number % 2}") for number in range(4)])

    assert [call.tenant for call in calls_of(world)] == ["t0", "t1"]


async def test_what_a_call_did_not_use_is_there_for_others() -> None:
    world = await a_world(Budget(tokens=350), 0)
    await world.owner.process([world.request("order-1"), world.request("order-2")])
    first, _ = calls_of(world)
    assert (await the_slice(world))[1] == NEEDED + NEEDED

    await answer(world, first, **tokens(10, 5))

    # then its next call fits, which would not have without it
    assert [call.step for call in calls_of(world)] == ["main/two"]
    assert (await the_slice(world))[1].tokens == 15 + 2 * 166


async def test_instances_share_a_day() -> None:
    # given two owners, each of one home
    one = await a_world(Budget(model_calls=7), 0)
    other = await a_world(Budget(model_calls=7), 1, store=one.store)
    # when both are asked for more than the day allows, in turns
    for number in range(5):
        await one.owner.process([one.request(f"one-{number}", home=0)])
        await other.owner.process([other.request(f"other-{number}", home=1)])
    # then together they send what it allows
    assert len(calls_of(one)) + len(calls_of(other)) == 7
    assert len(failures_of(one)) + len(failures_of(other)) == 3


async def test_who_takes_a_home_over_goes_on_with_what_is_left() -> None:
    world = await a_world(Budget(model_calls=3), 0)
    await world.owner.process([world.request("order-1"), world.request("order-2")])

    heir = await a_world(Budget(model_calls=3), 0, store=world.store)
    heir.wire.sent.clear()
    heir.follow(world)
    await heir.owner.process([heir.request("order-3"), heir.request("order-4")])

    assert [call.run_id for call in calls_of(heir)] == ["order-3"]
    assert len(failures_of(heir)) == 1


async def test_a_batch_that_was_not_written_used_nothing() -> None:
    store = BreakingStore()
    world = await a_world(Budget(model_calls=2), 0, store=store)
    request = world.request()
    store.fail_before.append(Unavailable("away"))
    with pytest.raises(Unavailable):
        await world.owner.process([request])
    assert (await the_slice(world))[1] == NOTHING

    await world.owner.process([request, world.request("order-2")])

    assert len(calls_of(world)) == 2


async def test_a_claim_that_fails_undoes_its_batch_once_and_is_made_again() -> None:
    store = BreakingStore()
    world = await a_world(Budget(model_calls=2), 0, store=store)
    requests = [world.request("order-1"), world.request("order-2"), world.request("order-3")]
    store.fail_claims.append(Unavailable("away"))
    with pytest.raises(Unavailable):
        await world.owner.process(requests)
    # when another instance comes in between the next time
    store.fail_claims.append(RunTakenError("a deadlock"))
    await world.owner.process(requests)
    # then it is as if nothing had happened
    assert len(calls_of(world)) == 2
    assert (await the_slice(world))[1].model_calls == 2
    in_flight = world.metrics.get_sample_value("penstock_route_calls_in_flight", {"route": "small/first"})
    assert in_flight == 2


async def test_the_next_day_begins_anew_and_late_answers_count_for_the_day_they_were_asked_on() -> None:
    world = await a_world(Budget(model_calls=1), 0)
    await world.owner.process([world.request("order-1")])
    (call,) = calls_of(world)
    asked_ms = world.now_ms
    world.now_ms += 30_000
    await world.owner.process([world.request("order-2")])
    assert len(failures_of(world)) == 1
    # when midnight has passed
    world.now_ms = (day_of(asked_ms) + 1) * DAY_MS
    await world.owner.process([world.request("order-3")])
    assert len(calls_of(world)) == 1
    assert (await the_slice(world))[1].model_calls == 1
    assert (await the_slice(world, at_ms=asked_ms))[1] == NEEDED
    # and days that are over are removed with old runs
    await world.store.delete_finished_runs(world.now_ms, 10)
    assert await the_slice(world, at_ms=asked_ms) == (NOTHING, NOTHING)
    assert call.run_id == "order-1"


async def test_what_was_used_up_is_looked_at_again_after_a_while() -> None:
    """Guard: another home may have given back what it did not need."""
    world = await a_world(Budget(model_calls=2), 0)
    day = day_of(world.now_ms)
    caps = Budget(model_calls=2)
    await world.store.claim_slices([SliceClaim("default", day, 1, Amounts(2), caps)])
    await world.owner.process([world.request("order-1")])
    assert len(failures_of(world)) == 1
    # when the other home gives one back
    await world.store.claim_slices([SliceClaim("default", day, 1, Amounts(-1), caps)])
    world.now_ms += RECHECK_MS
    await world.owner.process([world.request("order-2")])
    # then it can be used
    assert len(calls_of(world)) == 1


def test_what_calls_did_not_need_is_given_back_but_for_a_slice() -> None:
    budgets = TenantBudgets({"acme": Budget(tokens=8_000)}, homes=4)
    key = ("acme", 1, 0)
    budgets.use([Charge(*key, Amounts(1, 2_000))])
    (claim,) = budgets.shortfalls([Charge(*key, NOTHING)], 0)
    assert claim.wanted == Amounts(0, 2_000)

    budgets.use([Charge(*key, Amounts(0, -1_900))])

    assert budgets.surplus([Charge(*key, NOTHING)]) == []
    budgets._held[key].granted = Amounts(0, 2_000)
    (extra,) = budgets.surplus([Charge(*key, NOTHING)])
    assert extra.wanted == Amounts(0, 100 - 1_900)


def test_charges_are_written_as_one_for_each_slice() -> None:
    charges = [Charge("a", 1, 0, Amounts(1)), Charge("a", 1, 1, Amounts(1)), Charge("a", 1, 0, Amounts(2, 5))]

    assert added_up(charges) == [Charge("a", 1, 0, Amounts(3, 5)), Charge("a", 1, 1, Amounts(1))]


@settings(max_examples=60, deadline=None)
@given(
    cap=st.integers(1, 60),
    told=st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["ask", "ask", "settle", "lose"])), max_size=60),
)
async def test_homes_together_never_use_more_than_the_day_allows(cap: int, told: list[tuple[int, str]]) -> None:
    """Guard: over instances that claim, give back, and lose what they knew."""
    store, budget = MemoryStore(), {"acme": Budget(model_calls=cap)}
    instances = [TenantBudgets(budget, homes=3) for _ in range(3)]
    used = [0, 0, 0]
    for at_ms, (home, event) in enumerate(told):
        budgets = instances[home]
        if event == "lose":
            instances[home] = TenantBudgets(budget, homes=3)
            continue
        if event == "settle" and not used[home]:
            continue
        change = 3 if event == "ask" else -1
        charges = [Charge("acme", 0, home, Amounts(change))]
        allowance = budgets.allowance("acme", home, at_ms)
        assert allowance is not None
        budgets.use(charges)
        claims = budgets.shortfalls(charges, at_ms)
        if claims:
            budgets.give_back(charges)
            budgets.take(claims, await store.claim_slices(claims), at_ms)
            allowance = budgets.allowance("acme", home, at_ms)
            assert allowance is not None
            budgets.use(charges)
        if event == "ask" and allowance.left.get("model_calls", change) < change:
            budgets.give_back(charges)
            continue
        used[home] += change
        await store.commit(Batch(charges=added_up(charges)))
        extra = budgets.surplus(charges)
        if extra:
            budgets.take(extra, await store.claim_slices(extra), at_ms)
        assert sum(used) <= cap
        assert min(used) >= 0
