"""Owns the promises about gates, classifiers, votes, quorums and sleeps on real topics."""

from pathlib import Path
from typing import Any

import pytest

from penstock.contracts.topics import TASK_COMPLETED
from penstock.testkit.traffic import Traffic, counted_step
from penstock.workflow.definition import Definition

pytestmark = [pytest.mark.stack, pytest.mark.slow]

TIERS = {"tier": [{"pool": "small", "model": "smollm2-135m"}], "other": [{"pool": "small", "model": "second"}]}


def letters() -> Definition:
    """A letter is sorted by a model, judged by a vote, looked up by whoever is first, and let through by a gate."""
    vote = {"id": "judge", "model": "tier", "prompt": "Vote {{ run.id }} {{ index }}.", "max_tokens": 16}
    slow = counted_step("slow", input={"gate": "{{ input.gate }}", "milliseconds": 0}, timeout_seconds=600)
    steps: list[dict[str, Any]] = [
        {
            "id": "kind",
            "route": [
                {"case": "bill", "do": counted_step("pay", input={"value": "bill", "milliseconds": 0})},
                {"case": "other", "do": counted_step("keep", input={"value": "other", "milliseconds": 0})},
            ],
            "classify": {
                "model": "tier",
                "system": "Sort {{ run.id }}.",
                "prompt": "A letter.",
                "min_confidence": 0.7,
                "escalate": "other",
            },
        },
        {"id": "jury", "parallel": {"vote": {"do": vote, "max_concurrency": 1}}},
        {"id": "either", "parallel": {"sections": [counted_step("quick"), slow], "join": {"quorum": 1}}},
        {"id": "good", "check": "jury.winner == 'yes'", "message": "the jury of {{ run.id }} said {{ jury.winner }}"},
        {"id": "nap", "sleep": 0.2},
        counted_step("last"),
    ]
    given = {"type": "object", "required": ["ledger", "gate"]}
    output = {"kind": "{{ kind.value }}", "jury": "{{ jury }}", "slow": "{{ either.slow }}", "last": "{{ last.step }}"}
    do = {"id": "main", "chain": steps, "output": output}
    return Definition.model_validate({"name": "letters", "version": "1", "input": given, "tiers": TIERS, "do": do})


async def ask(flow: Traffic, run_id: str, *votes: str) -> Path:
    """A run whose classifier is not sure at first, and whose jury votes so; the file that its slow step waits for."""
    await flow.upstream.publish(letters())
    sure, unsure = '{"case": "bill", "confidence": 0.9}', '{"case": "other", "confidence": 0.2}'
    flow.engine.answer(f"Sort {run_id}", unsure, sure)
    for index, vote in enumerate(votes):
        flow.engine.answer(f"Vote {run_id} {index}", vote)
    gate = flow.ledger.with_name(f"{run_id}.gate")
    await flow.upstream.request("letters", {"ledger": str(flow.ledger), "gate": str(gate)}, run_id=run_id)
    return gate


async def test_a_run_through_gates_comes_to_what_its_models_say(flow: Traffic) -> None:
    # given a jury of which two say yes, when the letter is asked about
    gate = await ask(flow, "letters-1", "yes", "no", "yes")
    end = (await flow.downstream.finished(["letters-1"]))["letters-1"]
    # then the second classifier decided, the majority won, and nobody waited for the slow one
    assert end.status == "completed", end.error
    assert end.output == {
        "kind": "bill",
        "jury": {"winner": "yes", "agree": 2, "ballots": ["yes", "no", "yes"]},
        "slow": None,
        "last": "main/last",
    }
    assert end.usage.model_calls == 5
    assert [call.model for call in flow.engine.calls_about("Sort letters-1")] == ["smollm2-135m", "second"]
    # and an answer that comes when nobody needs it any more changes nothing
    gate.touch()
    await flow.downstream.hear(TASK_COMPLETED.name, 1, b'"step":"main/either/slow"')
    await flow.downstream.caught_up()
    assert len(flow.downstream.ends("letters-1")) == 1


async def test_a_gate_fails_its_run_fast(flow: Traffic) -> None:
    gate = await ask(flow, "letters-2", "no", "no")
    end = (await flow.downstream.finished(["letters-2"]))["letters-2"]
    assert end.error is not None
    assert end.error.model_dump() == {
        "code": "check_failed",
        "message": "the jury of letters-2 said no",
        "step": "main/good",
    }
    assert "letters-2 main/last" not in flow.executions().begun
    gate.touch()
