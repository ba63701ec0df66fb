"""Owns the promise that no kill loses what waits: sleeps, retries that are put off, fallbacks, child runs."""

from collections import Counter, defaultdict
from typing import Any

import pytest

from penstock.contracts.messages import RunFinished
from penstock.contracts.topics import RUN_FINISHED, Service
from penstock.testkit.downstream import headers_of
from penstock.testkit.state import settled
from penstock.testkit.traffic import Traffic, counted_step
from penstock.workflow.definition import Definition
from services.local.system import System

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

RUNS = 100
FINISH_SECONDS = 180.0
KILLED = [Service.ORCHESTRATOR, Service.WORKER, Service.INFERENCE]
TIERS = {"tier": [{"pool": "small", "model": "nobody-has-this"}, {"pool": "small", "model": "smollm2-135m"}]}


def waiting() -> list[Definition]:
    """A child that sleeps, and a parent whose steps wait for a time, a retry, a fallback and that child."""
    nap = {"id": "nap", "sleep": 0.5}
    child = {"name": "waiting-child", "version": "1", "do": {"id": "main", "chain": [nap, counted_step("inside")]}}
    steps: list[dict[str, Any]] = [
        counted_step("first"),
        {"id": "pause", "sleep": 1},
        counted_step("again", input={"fail_before": 2}, retry={"initial_ms": 400, "max_ms": 800}),
        {"id": "say", "model": "tier", "prompt": "Say something about {{ run.id }}.", "max_tokens": 16},
        {"id": "child", "run": "waiting-child", "input": {"ledger": "{{ input.ledger }}"}},
        counted_step("last"),
    ]
    parent = {"name": "waiting", "version": "1", "tiers": TIERS, "do": {"id": "main", "chain": steps}}
    return [Definition.model_validate(child), Definition.model_validate(parent)]


def ends_of(load: Traffic, label: str) -> dict[str, list[tuple[str, RunFinished]]]:
    """All that was said of the ends of runs with a label: event id and body, by run."""
    ends: dict[str, list[tuple[str, RunFinished]]] = defaultdict(list)
    for record in load.downstream.heard(RUN_FINISHED.name):
        finished = RunFinished.model_validate_json(record.value)
        if finished.labels.get("load") == label:
            ends[finished.run_id].append((headers_of(record)["ce_id"], finished))
    return ends


@pytest.mark.parametrize("service", KILLED)
async def test_what_waits_goes_on_after_a_kill(running: System, load: Traffic, service: Service) -> None:
    # given runs that wait for sleeps, for retries, for a fallback and for children, in all stages
    for definition in waiting():
        await load.upstream.publish(definition)
    label = f"waiting-{service}"
    run_ids = await load.start(label, RUNS, "waiting", labels={"load": label})
    await load.answered(run_ids, RUNS * 3 // 2)

    # when a service is killed, and is started again
    part = await running.crash(service)
    moment = await load.moment()

    # then every run completes, and so does one child of each, each once
    finished = await load.downstream.finished(run_ids, FINISH_SECONDS)
    assert Counter(end.status for end in finished.values()) == {"completed": RUNS}
    await load.downstream.caught_up()
    ends = ends_of(load, label)
    assert Counter(len({event_id for event_id, _ in said}) for said in ends.values()) == {1: 2 * RUNS}
    assert sum(run_id.startswith("child-") for run_id in ends) == RUNS

    # and each attempt was asked for under one request id: two of the one that was told to fail, and nothing paid again
    begun = load.executions().begun
    for run_id in run_ids:
        attempts = {step: len(set(begun.get(f"{run_id} main/{step}", ()))) for step in ("first", "again", "last")}
        assert attempts == {"first": 1, "again": 2, "last": 1}, run_id
    load.ran_again_since(moment)
    assert all(finished[run_id].usage.model_calls >= 1 for run_id in run_ids)
    await settled(running.postgres_url(Service.ORCHESTRATOR), list(ends))
    await part.until_ready(FINISH_SECONDS)
