"""Owns the stories of bursts: engines report, calls go on while they are behind, and the day's money bounds it."""

from decimal import Decimal

from penstock.contracts import topics
from penstock.contracts.messages import Budget, Money
from penstock.contracts.topics import Deployment
from penstock.testkit.aside import Letters
from penstock.testkit.builders import a_definition, a_model, a_report
from penstock.testkit.received import Record
from services.orchestrator.core.bursting import OWNER
from services.orchestrator.shell.capacity import CapacityInbox
from services.orchestrator.shell.tenants import with_bursts
from services.orchestrator.shell.testing import World

OWN, MANAGED = (topics.INFERENCE_REQUESTED.named(pool=pool, lane="interactive") for pool in ("small", "burst"))
TIER = {
    "routes": [
        {"pool": "small", "model": "first"},
        {"pool": "burst", "model": "second", "price": {"input_per_million": "100", "output_per_million": "1000"}},
    ],
    "burst": {"wait_seconds": 2},
}
CALL = a_model("say", prompt="x" * 100, max_tokens=100)
"""Costs 0.1066 USD at most on the managed route."""


async def a_world(day: str) -> World:
    """An owner whose tenants may burst for so much a day; one engine with four places, a second for each call."""
    budgets = with_bursts({}, {"*": Budget(cost=Money(amount=Decimal(day)))})
    world = World(budgets=budgets, deployment=Deployment(pools=("small", "burst")))
    await world.own(0)
    await world.publish(a_definition(CALL, tiers={"small": TIER}))
    return world


async def report(world: World, **fields: object) -> None:
    """An engine says what room it has."""
    told = a_report(at_ms=world.now_ms, **fields)  # type: ignore[arg-type]  # fields of a report
    await CapacityInbox(world.owner.hear, Letters().aside()).take(
        Record(told.to_json(), topic=topics.CAPACITY_REPORTED.name)
    )


async def ask(world: World, *names: str) -> tuple[list[str], list[str]]:
    """Runs start; those whose call our own engines get, and those whose call goes on."""
    await world.owner.process([world.request(name, priority="interactive") for name in names])
    return tuple([body["run_id"] for body in world.wire.take(topic)] for topic in (OWN, MANAGED))  # type: ignore[return-value]  # two


async def test_calls_go_on_while_engines_are_behind_for_as_long_as_the_day_has_money() -> None:
    # given an engine that is full, and money for two calls
    world = await a_world("0.25")
    await report(world, requests_in_flight=4, tokens_in_flight=400)

    # when eight runs start at once, and then two more
    own, sent_on = await ask(world, *(f"order-{number}" for number in range(8)))

    # then of those that would wait longer than they should, two go on; the others wait, and say why
    assert (own, sent_on) == (
        ["order-0", "order-1", "order-2", "order-3", "order-4", "order-5"],
        ["order-6", "order-7"],
    )
    assert await ask(world, "order-8", "order-9") == (["order-8", "order-9"], [])
    told = world.wire.take(topics.RUN_PROGRESSED.name)
    assert told[-1]["changes"][0]["route_reason"].startswith("burst_budget: small/first is 4.0 s behind")
    used_up = {"tenant": f"{OWNER}default", "cap": "cost"}
    assert world.metrics.get_sample_value("penstock_tenant_budget_used_up_total", used_up) == 1
    crowded = {"route": "small/first", "state": "crowded"}
    assert world.metrics.get_sample_value("penstock_route_crowd_changes_total", crowded) == 1


async def test_engines_that_say_they_are_away_are_passed_by_until_their_report_is_void() -> None:
    world = await a_world("1")
    await report(world, state="away")
    assert world.metrics.get_sample_value("penstock_route_engines", {"route": "small/first"}) == 0

    assert await ask(world, "order-1") == ([], ["order-1"])

    world.now_ms += 30_000
    assert await ask(world, "order-2") == (["order-2"], [])


async def test_what_is_no_report_is_set_aside() -> None:
    world = await a_world("1")
    letters = Letters()
    inbox = CapacityInbox(world.owner.hear, letters.aside())
    values: tuple[bytes | None, ...] = (b"[]", b"\xff", None)

    for value in values:
        await inbox.take(Record(value, topic=topics.CAPACITY_REPORTED.name))

    assert tuple(letter.value for letter in letters.sent) == values
    assert await ask(world, "order-1") == (["order-1"], [])
