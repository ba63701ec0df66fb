"""Owns the promise that no kill loses a turn, a round or a sub-task of a loop, or pays for one twice."""

import json
from collections import Counter
from pathlib import Path

import pytest

from penstock.contracts.topics import Service
from penstock.testkit.state import settled
from penstock.testkit.traffic import Traffic, counted_step
from penstock.workflow.definition import Definition
from services.local.system import System

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

RUNS = 60
FINISH_SECONDS = 180.0
KILLED = [Service.ORCHESTRATOR, Service.WORKER, Service.INFERENCE]
TURNS, CALLS, SUB_TASKS, ROUNDS = 3, 2, 3, 3
COUNTED = (
    [f"main/fix[{turn}]/call[{call}]" for turn in range(TURNS - 1) for call in range(CALLS)]
    + [f"main/audit[0]/task[{number}]/part" for number in range(SUB_TASKS)]
    + [f"main/poem[{number}]/draft" for number in range(ROUNDS)]
)
"""Steps that leave a line in the ledger."""


def looping() -> Definition:
    """An agent that calls a counted task, a plan of counted sub-tasks, and a refine of counted candidates."""
    tool = {"task": "counted.work", "input_schema": {"type": "object"}}
    agent = {"model": "tier", "system": "You count.", "prompt": "Count.", "tools": [tool], "caps": {"model_calls": 20}}
    plan = {"model": "tier", "system": "You divide.", "prompt": "Divide."}
    steps = [
        {"id": "fix", "agent": agent},
        {"id": "audit", "plan": plan, "do": counted_step("part")},
        {
            "id": "poem",
            "refine": {"generate": counted_step("draft"), "score": "round", "bar": ROUNDS - 1, "rounds_max": 9},
        },
    ]
    tiers = {"tier": [{"pool": "small", "model": "smollm2-135m"}]}
    body = {"name": "looping", "version": "1", "tiers": tiers, "do": {"id": "main", "chain": steps}}
    return Definition.model_validate(body)


def counts(ledger: Path, conversation: tuple[str, ...]) -> str:
    """The agent's model: calls side by side in each turn but the last, whatever it was told before."""
    turn = (len(conversation) - 2) // 2
    if turn == TURNS - 1:
        return json.dumps({"answer": "counted"})
    given = [{"ledger": str(ledger), "milliseconds": 30, "value": [turn, call]} for call in range(CALLS)]
    return json.dumps({"calls": [{"tool": "counted.work", "arguments": each} for each in given]})


@pytest.mark.parametrize("service", KILLED)
async def test_loops_go_on_where_they_were_after_a_kill(running: System, load: Traffic, service: Service) -> None:
    # given runs in all turns of an agent, sub-tasks of a plan and rounds of a refine
    load.engine.play("You count.", lambda conversation: counts(load.ledger, conversation))
    load.engine.play("You divide.", lambda _: json.dumps({"tasks": [str(number) for number in range(SUB_TASKS)]}))
    await load.upstream.publish(looping())
    run_ids = await load.start(f"looping-{service}", RUNS, "looping")
    await load.answered(run_ids, RUNS * len(COUNTED) // 3)

    # when a service is killed, and is started again
    part = await running.crash(service)
    moment = await load.moment()

    # then every run completes with all its turns, sub-tasks and rounds
    finished = await load.downstream.finished(run_ids, FINISH_SECONDS)
    assert Counter(end.status for end in finished.values()) == {"completed": RUNS}
    assert {end.output["rounds"] for end in finished.values()} == {ROUNDS}
    assert {end.usage.model_calls for end in finished.values()} == {TURNS + 1}

    # and each of them was asked for once, and what had been answered was not executed again
    begun = load.executions().begun
    for run_id in run_ids:
        asked = {step: len(set(begun.get(f"{run_id} {step}", ()))) for step in COUNTED}
        assert asked == dict.fromkeys(COUNTED, 1), run_id
    load.ran_again_since(moment)
    await settled(running.postgres_url(Service.ORCHESTRATOR), run_ids)
    await part.until_ready(FINISH_SECONDS)
