"""Tests of an engine's bill as it is told: stretches without a gap, whose sums are those of the calls."""

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from penstock.contracts.envelope import Outgoing
from penstock.contracts.messages import EngineMetered, TokenUsage, UsageRecorded
from penstock.contracts.topics import ENGINE_METERED
from penstock.runtime.errors import NotAcknowledged
from penstock.testkit.received import Record
from services.inference.accounts import Accounts
from services.inference.energy import NvmlCounter, counter
from services.inference.metering import Billing, EngineMeter
from services.inference.station import Stations
from services.inference.tests.scripted import PRICES, ScriptedEngine, a_caller, a_request, a_station

SECOND = 10**9
ANSWER = TokenUsage(input=10, output=20)


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.at_ns = 7 * SECOND

    def __call__(self) -> int:
        return self.at_ns


class Counter:
    """An energy counter that the test moves."""

    value = 1_000

    def millijoules(self) -> int:
        return self.value


class Broker:
    """Takes records, or does not."""

    def __init__(self) -> None:
        self.taken: list[EngineMetered] = []
        self.away = False
        self.told = asyncio.Event()

    async def send(self, records: Any) -> None:
        if self.away:
            raise NotAcknowledged(list(records), "away", permanent=False)
        self.taken += [told(record) for record in records]
        self.told.set()


def told(record: Outgoing) -> EngineMetered:
    assert record.topic == ENGINE_METERED.name
    return EngineMetered.model_validate_json(record.value)


def a_meter(clock: Clock, **changes: Any) -> EngineMeter:
    return EngineMeter("e", Billing(PRICES, "cpu", 2), now_ns=clock, wall_ns=lambda: 1_795_000_000 * SECOND, **changes)


def stretch(meter: EngineMeter, *, closed: bool = False) -> EngineMetered:
    made = meter.stretch(pool="small", models=frozenset({"m"}), simulated=False, closed=closed)
    assert made is not None
    return made


def test_stretches_follow_each_other_and_add_up() -> None:
    # given a meter of two accelerators at 3600 an hour each, and a call from second 1 to second 4
    clock = Clock()
    meter = a_meter(clock)
    clock.at_ns += SECOND
    call = meter.begin()
    clock.at_ns += SECOND
    first = stretch(meter)
    clock.at_ns += 2 * SECOND

    # when it ends, and the meter is closed a second later
    charge = meter.end(call, ANSWER)
    clock.at_ns += SECOND
    last = stretch(meter, closed=True)

    # then the call bears its three seconds, twice, and the stretches say when
    assert meter.cost("m", ANSWER, charge)["amount"] == "6.000000000000"
    assert meter.share(charge)["gpu_seconds"] == "6.000000000"
    assert [int(part) for part in (first.total, first.idle, first.attributed, first.pending)] == [4, 2, 0, 2]
    assert [int(part) for part in (last.total, last.idle, last.attributed, last.pending)] == [6, 2, 6, 0]
    assert (first.sequence, last.sequence, first.closed, last.closed) == (0, 1, False, True)
    assert first.until == last.since
    assert (first.requests, last.requests) == (0, 1)
    assert [int(part) for part in (last.seconds, last.busy_seconds)] == [3, 2]
    assert first.engine_session == last.engine_session == meter.session


def test_energy_is_read_where_it_can_be() -> None:
    clock, energy = Clock(), Counter()
    meter = a_meter(clock, energy=energy)
    call = meter.begin()
    clock.at_ns += SECOND
    energy.value += 300_500

    charge = meter.end(call, ANSWER)

    assert meter.share(charge)["energy_joules"] == "300.500"
    assert stretch(meter).energy_joules == Decimal("300.5")


def test_an_endpoint_that_is_paid_by_the_token_has_no_account() -> None:
    meter = EngineMeter("e", Billing(PRICES, None))
    charge = meter.end(meter.begin(), ANSWER)

    assert meter.stretch(pool="p", models=frozenset({"m"}), simulated=False) is None
    assert meter.share(charge) == {}


async def test_what_a_session_attributed_is_what_its_usage_says() -> None:
    # given two answered calls and two that are cut off
    engine = ScriptedEngine()
    station = a_station(engine)
    caller, broker = a_caller(station), Broker()
    accounts = Accounts(Stations([station]), "small", broker.send, 60.0)
    records = [record for attempt in (1, 2) for record in await caller.handle(_record(attempt))]
    engine.held.clear()
    engine.two_inside.clear()
    cut_off = [asyncio.create_task(caller.handle(_record(attempt))) for attempt in (3, 4)]
    await engine.two_inside.wait()
    for each in cut_off:
        each.cancel()
    await asyncio.gather(*cut_off, return_exceptions=True)

    # when the account is closed
    await accounts.close()

    # then it names their costs, and what the others took
    (account,) = broker.taken
    usage = [UsageRecorded.model_validate_json(record.value) for record in records[1::2]]
    assert account.attributed == sum(each.cost.amount for each in usage) > 0
    assert account.lost > 0
    assert account.pending == 0
    assert account.total == account.idle + account.attributed + account.lost
    assert {each.engine_session for each in usage} == {account.engine_session}


async def test_an_account_that_the_broker_did_not_take_goes_with_the_next() -> None:
    broker = Broker()
    accounts = Accounts(Stations([a_station(ScriptedEngine())]), "small", broker.send, 60.0)
    broker.away = True
    await accounts.tell()
    broker.away = False

    await accounts.close()

    assert [(each.sequence, each.closed) for each in broker.taken] == [(0, False), (1, True)]


async def test_a_life_is_known_of_from_its_beginning() -> None:
    broker = Broker()
    accounts = Accounts(Stations([a_station(ScriptedEngine())]), "small", broker.send, 3600.0)

    telling = asyncio.create_task(accounts.run())
    await broker.told.wait()
    telling.cancel()

    assert [(each.sequence, each.closed) for each in broker.taken] == [(0, False)]


class Nvml:
    """A management library of two accelerators."""

    class NVMLError(Exception):
        """As the binding has it."""

    broken = False

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:  # noqa: N802 - the library's own name
        if self.broken:
            raise self.NVMLError("lost")
        return 1_000 * handle


def test_a_counter_that_cannot_be_read_stands_still() -> None:
    nvml = Nvml()
    counting = NvmlCounter(nvml, [1, 2])
    assert counting.millijoules() == 3_000

    nvml.broken = True

    assert counting.millijoules() == 3_000


@pytest.mark.parametrize("devices", [(), ("0",)])
def test_without_a_library_there_is_no_counter(devices: tuple[str, ...]) -> None:
    assert counter(devices, binding="penstock_has_no_such_binding") is None


def _record(attempt: int) -> Record:
    return Record(a_request(attempt).to_json())
