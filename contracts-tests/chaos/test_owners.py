"""Owns the promise that homes always have one owner: one leaves, dies or freezes, the other takes over."""

import signal
import time

import pytest

from penstock.contracts.topics import Service
from penstock.testkit.state import settled
from penstock.testkit.traffic import Traffic
from services.local.system import System

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

RUNS = 200
FINISH_SECONDS = 180.0
SESSION_SECONDS = 10.0
"""After so long without a heartbeat the broker gives a member's partitions to the others."""


@pytest.mark.parametrize(
    ("number", "bound_seconds"), [(signal.SIGTERM, 30.0), (signal.SIGKILL, SESSION_SECONDS + 30.0)]
)
async def test_one_orchestrator_goes_and_the_other_takes_over(
    running: System, load: Traffic, number: signal.Signals, bound_seconds: float
) -> None:
    # given two orchestrators with two homes each, and 200 runs in flight
    run_ids = await load.start(f"leave-{number.name}", RUNS)
    await load.answered(run_ids, RUNS // 4)

    # when one goes for good, and a new run is asked for in every home
    went_at = time.monotonic()
    await running.kill(Service.ORCHESTRATOR, 0, number)
    later = await load.start(f"later-{number.name}", load.homes)
    await load.downstream.finished(later, FINISH_SECONDS)
    seconds = time.monotonic() - went_at

    # then the other serves all homes before long, and all runs finish, each once
    assert seconds <= bound_seconds, f"the take-over after {number.name} took {seconds:.1f} s"
    await load.all_completed([*run_ids, *later], FINISH_SECONDS)
    await settled(running.postgres_url(Service.ORCHESTRATOR), [*run_ids, *later])


async def test_a_frozen_orchestrator_that_wakes_up_writes_nothing_stale(running: System, load: Traffic) -> None:
    # given 200 runs in flight, and an orchestrator that freezes in the middle of its homes' half
    run_ids = await load.start("frozen", RUNS)
    await load.answered(run_ids, RUNS // 4)
    running.pause(Service.ORCHESTRATOR, 0)

    # when the other has taken over (more than its own half is done) and the frozen one wakes up with what it held
    try:
        await load.some_finished(run_ids, RUNS * 3 // 4, FINISH_SECONDS)
    finally:
        running.resume(Service.ORCHESTRATOR, 0)
    later = await load.start("frozen-later", RUNS // 4)

    # then all runs finish, each once, in one state
    await load.all_completed([*run_ids, *later], FINISH_SECONDS)
    await settled(running.postgres_url(Service.ORCHESTRATOR), [*run_ids, *later])


@pytest.mark.parametrize("homes", [(1, 1), (0, 3)], ids=["one-partition", "two-partitions-of-two-owners"])
async def test_a_request_published_twice_is_one_run(running: System, load: Traffic, homes: tuple[int, int]) -> None:
    # given two orchestrators, when requests are published twice at the same time
    first, second = homes
    prefix = f"twice-{first}-{second}"
    run_ids = [f"{prefix}-{number}" for number in range(20)]
    moment = await load.moment()
    for run_id in run_ids:
        await load.request_in(run_id, first, second)

    # then each is one run: it ends once, and its steps are executed once
    await load.all_completed(run_ids, FINISH_SECONDS)
    await settled(running.postgres_url(Service.ORCHESTRATOR), run_ids)
    assert load.ran_again_since(moment) == frozenset()
    executions = load.executions().begun
    assert all(len(executions[f"{run_id} main/first"]) == 1 for run_id in run_ids)
