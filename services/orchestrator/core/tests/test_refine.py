"""Owns the examples of `refine`."""

from dataclasses import replace
from typing import Any

import pytest

from penstock.contracts.messages import InferenceRequested, StepPhase
from penstock.testkit.builders import a_chain, a_model, a_task
from services.orchestrator.core.state import Step
from services.orchestrator.core.tests.conversation import Conversation

SCORED = {
    "type": "object",
    "properties": {"score": {"type": "number"}, "critique": {"type": "string"}},
    "required": ["score"],
}
JUDGE = a_task("judge", input="{{ candidate }} of round {{ round }}", output_schema=SCORED)
DRAFT = a_model(
    "draft",
    prompt="{{ round }}: {% if candidate %}{{ candidate }} is {{ critique }}{% else %}Begin.{% endif %}",
)


def a_refine(**fields: Any) -> dict[str, Any]:
    """A refine `poem` in which a model drafts and a task judges."""
    return {"id": "poem", "refine": {"generate": DRAFT, "evaluate": JUDGE, **fields}}


def scored(**fields: Any) -> dict[str, Any]:
    """A refine `poem` whose candidates are numbers, judged by what they are."""
    loop = {"generate": a_task("draft", input="{{ critique }}"), "score": "candidate", **fields}
    return {"id": "poem", "refine": loop}


def prompts(talk: Conversation) -> list[str]:
    """What the last decision asked models."""
    return [
        message.content
        for request in talk.last.requests
        if isinstance(request, InferenceRequested)
        for message in request.messages
    ]


def test_a_candidate_is_judged_and_made_again_with_the_critique_until_it_reaches_the_bar() -> None:
    talk = Conversation(a_refine(bar=0.8))
    assert (talk.asked(), prompts(talk)) == (["poem[0]/draft#1"], ["0: Begin."])

    talk.succeed("poem[0]/draft", "rose")
    assert (talk.asked(), talk.inputs()) == (["poem[0]/judge#1"], ["rose of round 0"])
    talk.succeed("poem[0]/judge", {"score": 0.3, "critique": "dull"})
    assert (talk.asked(), prompts(talk)) == (["poem[1]/draft#1"], ["1: rose is dull"])
    row = talk.run.steps["poem[0]"]
    assert (row.kind, row.output) == ("refine", {"score": 0.3, "critique": "dull"})

    talk.succeed("poem[1]/draft", "tulip")
    finished = talk.succeed("poem[1]/judge", {"score": 0.8, "critique": "good"}).finished

    assert finished is not None
    assert finished.output == {"candidate": "tulip", "score": 0.8, "rounds": 2, "stopped": "bar"}


def test_expressions_judge_without_another_call() -> None:
    talk = Conversation(scored(bar=3, critique="{{ candidate }} in round {{ round }} is too little"))

    talk.succeed("poem[0]/draft", 1)
    assert talk.inputs() == ["1 in round 0 is too little"]
    finished = talk.succeed("poem[1]/draft", 4).finished

    assert finished is not None
    assert finished.output == {"candidate": 4, "score": 4, "rounds": 2, "stopped": "bar"}


def test_at_the_cap_the_best_candidate_is_taken_not_the_last() -> None:
    talk = Conversation(scored(bar=10, rounds_max=3))

    for number, candidate in enumerate((2, 5, 4)):
        talk.succeed(f"poem[{number}]/draft", candidate)

    assert talk.run.output == {"candidate": 5, "score": 5, "rounds": 3, "stopped": "cap"}


def test_patience_ends_what_no_longer_gets_better() -> None:
    talk = Conversation(scored(bar=10, rounds_max=9, patience=2))

    for number, candidate in enumerate((2, 2, 1)):
        talk.succeed(f"poem[{number}]/draft", candidate)

    assert talk.run.output == {"candidate": 2, "score": 2, "rounds": 3, "stopped": "no_improvement"}


def test_a_better_score_renews_the_patience() -> None:
    talk = Conversation(scored(bar=10, rounds_max=9, patience=2))

    for number, candidate in enumerate((2, 1, 3, 3)):
        talk.succeed(f"poem[{number}]/draft", candidate)

    assert talk.asked() == ["poem[4]/draft#1"]


@pytest.mark.parametrize(("fields", "cap"), [({"rounds_max": 1}, "rounds_max"), ({"patience": 1}, "patience")])
def test_a_cap_may_fail_and_names_itself(fields: dict[str, Any], cap: str) -> None:
    talk = Conversation(scored(bar=10, on_cap="fail", **fields))

    for number in range(2):
        if (f"poem[{number}]/draft", 1) in talk.requests:
            talk.succeed(f"poem[{number}]/draft", 2)

    error = talk.run.error
    assert error is not None
    assert (error.code, error.step) == ("refine_cap", "poem")
    assert f"raise `refine.{cap}`" in error.message
    assert "`poem`" in error.message


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("good", "must be an object with a `score`, it is str"),
        ({}, "`score` is null, not a number"),
        ({"score": True}, "`score` is bool, not a number"),
    ],
)
def test_a_judge_that_gives_no_score_fails_the_refine(output: Any, says: str) -> None:
    judge = {key: value for key, value in JUDGE.items() if key != "output_schema"}
    talk = Conversation(a_refine(evaluate=judge))
    talk.succeed("poem[0]/draft", "rose")

    talk.succeed("poem[0]/judge", output)

    error = talk.run.error
    assert error is not None
    assert (error.code, error.step) == ("expression_failed", "poem[0]")
    assert says in error.message


def test_a_score_is_taken_once() -> None:
    """Guard: a restored run goes by the round's row, even where the candidate would now score otherwise."""
    talk = Conversation(scored(bar=10))
    talk.succeed("poem[0]/draft", 2)
    talk.run.steps["poem[0]/draft"].output = 10
    talk.run.live = None

    talk.succeed("poem[1]/draft", 3)

    assert talk.asked() == ["poem[2]/draft#1"]


def test_a_failed_round_is_redriven_where_it_failed() -> None:
    talk = Conversation(a_refine())
    talk.succeed("poem[0]/draft", "rose")
    talk.fail("poem[0]/judge")
    assert talk.run.status == "failed"

    talk.redrive()

    assert talk.asked() == ["poem[0]/judge#2"]
    talk.succeed("poem[0]/judge", {"score": 1}, attempt=2)
    assert talk.run.output == {"candidate": "rose", "score": 1, "rounds": 1, "stopped": "bar"}


def test_loops_nest_and_the_innermost_names_count() -> None:
    inner = {"id": "inner", "refine": {"generate": a_task("make", input="{{ round }}"), "score": "candidate", "bar": 2}}
    outer = {"id": "outer", "refine": {"generate": inner, "score": "candidate.candidate", "bar": 3, "rounds_max": 2}}
    talk = Conversation(a_chain(outer, a_task("end", input="{{ outer.candidate.rounds }}")))

    talk.succeed("main/outer[0]/inner[0]/make", 1)
    assert (talk.asked(), talk.inputs()) == (["main/outer[0]/inner[1]/make#1"], [1])
    talk.succeed("main/outer[0]/inner[1]/make", 2)
    assert (talk.asked(), talk.inputs()) == (["main/outer[1]/inner[0]/make#1"], [0])
    talk.succeed("main/outer[1]/inner[0]/make", 3)

    assert talk.inputs() == [1]


def test_a_thousand_rounds_are_no_recursion() -> None:
    talk = Conversation(scored(bar=10, rounds_max=1_000))
    rows, first = talk.run.steps, talk.run.steps["poem[0]/draft"]
    for number in range(999):
        rows[f"poem[{number}]/draft"] = replace(
            first, path=f"poem[{number}]/draft", phase=StepPhase.COMPLETED, output=1
        )
        verdict = {"score": 1, "critique": None}
        rows[f"poem[{number}]"] = Step(f"poem[{number}]", "refine", StepPhase.COMPLETED, output=verdict)
    rows["poem[999]/draft"] = replace(first, path="poem[999]/draft")
    talk.run.live = None

    assert talk.ring().empty is False
    assert talk.run.steps["poem[999]/draft"].phase is not StepPhase.WAITING
