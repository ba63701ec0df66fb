"""Tests of what engines say of their room: when, how often, and what last."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from penstock.contracts.envelope import Outgoing
from penstock.contracts.messages import CapacityReported
from penstock.contracts.topics import CAPACITY_REPORTED, Service
from penstock.runtime.kafka.subscription import may_publish
from penstock.testkit.received import Record
from services.inference.core.reports import Figures, Rhythm, Said
from services.inference.reporting import CapacityReporter
from services.inference.station import Station
from services.inference.tests.scripted import AT_MS, ScriptedEngine, a_caller, a_request, a_station

RHYTHM = Rhythm(working_seconds=2, idle_seconds=10, periods_held=3)
BUSY = Figures(requests_in_flight=50, requests_best=100, kv_tokens_max=1000, kv_tokens_free=500, tokens_in_flight=500)


class Log:
    """Takes records as a publisher does."""

    def __init__(self) -> None:
        self.records: list[Outgoing] = []

    def send(self, records: Sequence[Outgoing]) -> "asyncio.Future[None]":
        assert all(may_publish(Service.INFERENCE)(record.topic) for record in records)
        self.records.extend(records)
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        sent.set_result(None)
        return sent

    @property
    def reports(self) -> list[CapacityReported]:
        return [CapacityReported.model_validate_json(record.value) for record in self.records]


def a_reporter(station: Station, log: Log, **options: Any) -> CapacityReporter:
    return CapacityReporter(station, log, lambda: AT_MS, pool="small", instance="i-1", **options)


@pytest.mark.parametrize(
    ("now", "due"),
    [
        (BUSY, False),
        (replace(BUSY, requests_in_flight=54), False),
        (replace(BUSY, requests_in_flight=56), True),
        (replace(BUSY, requests_waiting=6), True),
        (replace(BUSY, kv_tokens_free=440), True),
        (replace(BUSY, tokens_per_second=999.0), False),
        (Figures(requests_best=100, kv_tokens_max=1000, kv_tokens_free=500, tokens_in_flight=500), True),
    ],
    ids=["the same", "moved a little", "moved", "queue moved", "cache moved", "only the rate", "idle now"],
)
def test_a_report_is_due_when_a_figure_moved(now: Figures, due: bool) -> None:
    assert RHYTHM.due(Said("up", BUSY, 0.0), "up", now, 0.5) is due


def test_a_report_is_due_when_health_changed_and_when_it_has_been_silent_for_a_period() -> None:
    assert RHYTHM.due(None, "up", Figures(), 0.0)
    assert RHYTHM.due(Said("up", Figures(), 0.0), "away", Figures(), 0.1)
    assert not RHYTHM.due(Said("up", BUSY, 0.0), "up", BUSY, 1.9)
    assert RHYTHM.due(Said("up", BUSY, 0.0), "up", BUSY, 2.0)
    assert not RHYTHM.due(Said("up", Figures(), 0.0), "up", Figures(), 9.9)
    assert RHYTHM.due(Said("up", Figures(), 0.0), "up", Figures(), 10.0)


def test_no_report_expires_before_the_next_one_is_due() -> None:
    assert RHYTHM.held_seconds > 2 * RHYTHM.idle_seconds
    assert Rhythm(working_seconds=5, idle_seconds=1).held_seconds > 5


async def test_an_idle_engine_says_one_thing_in_ten_seconds() -> None:
    # given an idle station that is looked at twice a second for a minute
    log = Log()
    reporter = a_reporter(a_station(ScriptedEngine()), log, rhythm=RHYTHM)

    for tick in range(120):
        reporter.look(tick / 2)

    # then it has said six things, numbered, each valid beyond the next
    reports = log.reports
    assert [report.sequence for report in reports] == [1, 2, 3, 4, 5, 6]
    assert {report.health.state for report in reports} == {"starting"}
    assert (reports[0].expires_at - reports[0].reported_at).total_seconds() == 30
    assert {(record.topic, record.key) for record in log.records} == {(CAPACITY_REPORTED.name, b"i-1/scripted")}


async def test_what_is_in_the_engine_is_told() -> None:
    # given a call that the engine holds
    engine, log = ScriptedEngine(), Log()
    station = a_station(engine, concurrency=4)
    reporter = a_reporter(station, log)
    engine.held.clear()
    call = asyncio.create_task(a_caller(station).handle(Record(a_request().to_json(), timestamp=AT_MS)))
    await engine.entered.wait()

    reporter.look(0.0)

    # then one is in flight, with its prompt's tokens and all that it may answer
    (report,) = log.reports
    assert (report.requests_in_flight, report.requests_best) == (1, None)
    assert report.tokens_in_flight == engine.prompt_tokens(a_request()) + 16
    engine.held.set()
    await call
    assert station.figures(0.0).tokens_in_flight == 0


async def test_an_engine_starts_is_up_goes_away_drains_and_stops() -> None:
    engine, log, stop = ScriptedEngine(), Log(), asyncio.Event()
    station = a_station(engine)
    reporter = a_reporter(station, log)
    reporter.look(0.0)
    watching = asyncio.create_task(station.watch.run())
    await station.watch.wait_for_ever()
    reporter.look(0.1)
    engine.reachable = False
    station.watch.suspect()
    await engine.found_away.wait()
    reporter.look(0.2)
    watching.cancel()

    # when the service stops, and then ends
    stop.set()
    reporting = asyncio.create_task(reporter.run(stop))
    await asyncio.sleep(0)
    reporting.cancel()
    await asyncio.gather(reporting, watching, return_exceptions=True)

    # then every change was told, and an engine that is away says what was found
    told = [(report.health.state, report.health.detail != "") for report in log.reports]
    assert told == [("starting", False), ("up", False), ("away", True), ("draining", False), ("stopped", False)]
