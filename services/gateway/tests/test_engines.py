"""Tests of the table of engines: the last valid report of each, and the pools' sums."""

from prometheus_client import CollectorRegistry

from penstock.contracts.topics import CAPACITY_REPORTED
from penstock.testkit.aside import Letters
from penstock.testkit.builders import BEGINNING_MS, a_report
from penstock.testkit.received import Record
from services.gateway.engines import Engines


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.at_ms = BEGINNING_MS

    def __call__(self) -> int:
        return self.at_ms


async def say(engines: Engines, engine: str, at_ms: int = BEGINNING_MS, **fields: object) -> None:
    """An engine reports."""
    told = a_report(engine, at_ms=at_ms, **fields)
    await engines.take(Record(told.to_json(), topic=CAPACITY_REPORTED.name))


async def test_the_last_report_of_each_engine_counts_until_it_is_void() -> None:
    clock = Clock()
    engines = Engines(clock, Letters().aside())
    await say(engines, "b", requests_in_flight=1)
    await say(engines, "b", requests_in_flight=2)
    await say(engines, "a", BEGINNING_MS + 10_000, state="away")

    assert [(each.engine, each.requests_in_flight) for each in engines.reports()] == [("a", 0), ("b", 2)]

    clock.at_ms += 30_000
    assert [each.engine for each in engines.reports()] == ["a"]
    clock.at_ms += 10_000
    assert engines.reports() == []


async def test_what_is_no_report_is_set_aside() -> None:
    letters = Letters()
    engines = Engines(Clock(), letters.aside())
    values: tuple[bytes | None, ...] = (b"{}", b"\xff", None)

    for value in values:
        await engines.take(Record(value, topic=CAPACITY_REPORTED.name))

    assert tuple(letter.value for letter in letters.sent) == values
    assert engines.reports() == []


async def test_pools_are_summed_over_the_engines_that_take_work() -> None:
    registry, engines = CollectorRegistry(), Engines(Clock(), Letters().aside())
    registry.register(engines)
    await say(engines, "a", requests_in_flight=3, tokens_in_flight=300, tokens_waiting=50, requests_waiting=1)
    await say(engines, "b", requests_in_flight=1, tokens_in_flight=100, requests_best=None, tokens_per_second=80.0)
    await say(engines, "c", state="draining", requests_in_flight=9)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"penstock_pool_{name}", {"pool": "small", **labels})

    assert (value("engines", state="up"), value("engines", state="draining")) == (2, 1)
    assert (value("requests_in_flight"), value("requests_best")) == (4, 4)
    assert (value("backlog_tokens"), value("tokens_per_second"), value("tokens_per_second_best")) == (450, 80, 200)
