"""Tests of which engine of several takes a call."""

from uuid import UUID, uuid5

from penstock.contracts.envelope import Envelope, to_headers
from penstock.testkit.received import Record
from services.inference.station import Station, Stations
from services.inference.tests.scripted import ScriptedEngine, a_request, a_station
from services.inference.tickets import Reader

RUNS = [uuid5(UUID(int=0), str(number)) for number in range(300)]


def stations_of(*names: str) -> tuple[Stations, list[Station]]:
    made = []
    for name in names:
        engine = ScriptedEngine()
        engine.name = name
        made.append(a_station(engine))
    return Stations(made), made


def set_up(*stations: Station) -> None:
    for station in stations:
        station.watch._up.set()


def waits(stations: Stations, station: Station, count: int) -> None:
    """So many requests wait before a station's gate."""
    headers = to_headers(Envelope("1", "t", "s", "2026-11-21T00:00:00Z"))
    for number in range(count):
        ticket = Reader(stations, "small", 4).ticket(Record(a_request(number + 1).to_json(), headers))
        station.gate.offer(ticket)


def test_a_run_stays_with_the_engine_that_its_key_chooses() -> None:
    stations, made = stations_of("a", "b", "c")
    set_up(*made)

    chosen = [stations.serving("m", run) for run in RUNS]

    assert chosen == [stations.serving("m", run) for run in RUNS]
    assert all(60 < chosen.count(station) < 140 for station in made)
    assert stations.serving("other", RUNS[0]) is None


def test_an_engine_that_goes_moves_only_the_runs_that_were_its_own() -> None:
    stations, made = stations_of("a", "b", "c")
    set_up(*made)
    before = [stations.serving("m", run) for run in RUNS]

    made[0].watch.suspect()

    after = [stations.serving("m", run) for run in RUNS]
    assert made[0] not in after
    assert all(now is was for was, now in zip(before, after, strict=True) if was is not made[0])


def test_where_none_answers_the_call_waits_for_its_own() -> None:
    stations, made = stations_of("a", "b")

    assert {stations.serving("m", run) for run in RUNS} == set(made)


def test_a_queue_longer_than_a_batch_is_gone_around() -> None:
    # given two engines, and a run whose prefix lies with the first
    stations, made = stations_of("a", "b")
    set_up(*made)
    run = next(run for run in RUNS if stations.serving("m", run) is made[0])

    # then it waits there behind a batch, and goes to the other one rather than behind two
    waits(stations, made[0], made[0].concurrency)
    assert stations.serving("m", run) is made[0]
    waits(stations, made[0], 1)
    assert stations.serving("m", run) is made[1]
