"""Owns the promise that Kafka or Postgres may be away under load: nothing is lost, recovery needs nobody."""

import asyncio

import pytest

from penstock.contracts.topics import Service
from penstock.testkit.state import settled
from penstock.testkit.traffic import Traffic
from services.local.system import System

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

RUNS = 200
OUTAGE_SECONDS = 20.0
FINISH_SECONDS = 240.0


@pytest.mark.parametrize("away", ["kafka", "postgres"])
async def test_an_outage_of_twenty_seconds_under_load_loses_nothing(running: System, load: Traffic, away: str) -> None:
    # given 200 runs in flight
    run_ids = await load.start(f"{away}-away", RUNS)
    await load.answered(run_ids, RUNS // 4)
    moment = await load.moment()
    restarts = {name: part.restarts for name, part in running.stack.parts.items()}

    # when the broker or the database stops for twenty seconds, while more is asked for
    await (running.stop_kafka() if away == "kafka" else running.stop_postgres())
    asking = asyncio.create_task(load.start(f"{away}-meanwhile", RUNS // 4))
    await asyncio.sleep(OUTAGE_SECONDS)
    await (running.start_kafka() if away == "kafka" else running.start_postgres())

    # then all runs finish, each once, no process had to be started again, and the read side knows them all
    meanwhile = await asking
    await load.all_completed([*run_ids, *meanwhile], FINISH_SECONDS)
    load.ran_again_since(moment)
    assert {name: part.restarts for name, part in running.stack.parts.items()} == restarts
    await settled(running.postgres_url(Service.ORCHESTRATOR), [*run_ids, *meanwhile])
    await load.known_to_the_gateway(running.gateway_url, [*run_ids, *meanwhile])
