"""Owns the examples of `vote`: the same block several times, until enough of its outputs agree."""

from typing import Any

import pytest

from penstock.testkit.builders import a_chain, a_model, a_task
from services.orchestrator.core.tests.conversation import Conversation
from services.orchestrator.core.values import VALUE_BYTES_MAX


def a_vote(do: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """A parallel block `jury` that asks a task `judge` several times."""
    return {"id": "jury", "parallel": {"vote": {"do": do if do is not None else a_task("judge"), **fields}}}


def phases(talk: Conversation) -> dict[str, str]:
    """Each step's phase."""
    return {path: step.phase.value for path, step in talk.run.steps.items()}


def test_a_majority_decides_and_the_others_are_cancelled() -> None:
    talk = Conversation(a_chain(a_vote(), a_task("end", input="{{ jury }}")))
    assert talk.asked() == ["main/jury[0]/judge#1", "main/jury[1]/judge#1", "main/jury[2]/judge#1"]
    talk.succeed("main/jury[2]/judge", "mit")

    talk.succeed("main/jury[0]/judge", "mit")

    assert talk.inputs() == [{"winner": "mit", "agree": 2, "ballots": ["mit", None, "mit"]}]
    assert phases(talk)["main/jury[1]/judge"] == "cancelled"
    step = talk.run.steps["main/jury"]
    assert (step.kind, step.phase.value, step.output) == ("vote", "completed", talk.inputs()[0])
    assert talk.succeed("main/jury[1]/judge", "bsd").empty


def test_each_branch_knows_its_index() -> None:
    talk = Conversation(a_vote(a_task("judge", input="{{ index }}"), votes=4))

    assert talk.inputs() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("votes", "agree", "needed"), [(2, None, 2), (3, None, 2), (4, None, 3), (101, None, 51), (5, 2, 2), (5, 5, 5)]
)
def test_more_than_half_must_agree_unless_it_says_how_many(votes: int, agree: int | None, needed: int) -> None:
    talk = Conversation(a_vote(votes=votes, agree=agree, max_concurrency=1))

    for number in range(needed):
        assert talk.run.status == "running"
        talk.succeed(f"jury[{number}]/judge", "yes")

    assert talk.run.status == "completed"
    assert talk.run.output["agree"] == needed
    assert len(talk.requests) == needed


def test_ballots_are_compared_by_an_expression_and_the_winner_is_a_whole_output() -> None:
    talk = Conversation(a_vote(by="output.kind | lower"))
    talk.succeed("jury[1]/judge", {"kind": "MIT", "why": "it says so"})

    finished = talk.succeed("jury[0]/judge", {"kind": "mit", "why": "I know it"}).finished

    assert finished is not None
    assert finished.output == {
        "winner": {"kind": "mit", "why": "I know it"},
        "agree": 2,
        "ballots": ["mit", "mit", None],
    }


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ({"a": 1, "b": [2]}, {"b": [2], "a": 1}, True),
        ({"a": 1}, {"a": 1.0}, True),
        ([1, 2], [2, 1], False),
        (True, 1, False),
        (False, None, False),
        (None, None, True),
        ("1", 1, False),
        (0.5, 0.5, True),
        (-0.0, 0, True),
        (2.0**60, 2**60 + 1, False),
    ],
)
def test_outputs_are_equal_as_json_is(one: Any, other: Any, equal: bool) -> None:
    talk = Conversation(a_vote(votes=2))
    talk.succeed("jury[0]/judge", one)

    talk.succeed("jury[1]/judge", other)

    assert (talk.run.status == "completed") is equal


def test_no_majority_fails_as_soon_as_none_is_possible() -> None:
    talk = Conversation(a_vote(votes=5, agree=4))
    talk.succeed("jury[0]/judge", "a")
    talk.succeed("jury[1]/judge", "b")
    assert talk.run.status == "running"

    finished = talk.succeed("jury[2]/judge", "a").finished
    assert finished is None
    finished = talk.succeed("jury[3]/judge", "c").finished

    assert finished is not None
    assert finished.error is not None
    assert finished.error.model_dump() == {
        "code": "no_majority",
        "message": "no answer can have 4 of the 5 votes of `jury` any more: raise `vote.votes`, lower `vote.agree`, or "
        "compare less of the outputs with `vote.by`",
        "step": "jury",
    }
    assert phases(talk)["jury[4]/judge"] == "cancelled"


def test_a_failed_branch_is_a_ballot_for_nobody() -> None:
    talk = Conversation(a_vote())
    talk.fail("jury[0]/judge")
    talk.succeed("jury[1]/judge", "a")

    finished = talk.succeed("jury[2]/judge", "a").finished

    assert finished is not None
    assert finished.output == {"winner": "a", "agree": 2, "ballots": [None, "a", "a"]}


def test_failures_alone_can_make_a_majority_impossible() -> None:
    talk = Conversation(a_vote())
    talk.fail("jury[0]/judge")

    finished = talk.fail("jury[2]/judge").finished

    assert finished is not None
    assert finished.error is not None
    assert finished.error.code == "no_majority"


def test_a_ballot_that_cannot_be_read_fails_the_vote() -> None:
    """Guard: an expression that does not fit what comes back is no quiet loss of ballots."""
    talk = Conversation(a_vote(by="output.kind"))

    finished = talk.succeed("jury[1]/judge", {"kin": 1}).finished

    assert finished is not None
    assert finished.error is not None
    assert (finished.error.code, finished.error.step) == ("expression_failed", "jury")
    assert finished.error.message.startswith("vote.by: `output.kind` is not defined: there is no field `kind`")
    assert phases(talk)["jury[0]/judge"] == "cancelled"


def test_a_vote_is_counted_once() -> None:
    """Guard: ballots of later places were in first; a restored run enters the places in their order."""
    talk = Conversation(a_chain(a_vote(votes=4, agree=2), a_task("wait"), a_task("end", input="{{ jury }}")))
    talk.succeed("main/jury[3]/judge", "b")
    talk.succeed("main/jury[1]/judge", "a")
    talk.succeed("main/jury[0]/judge", "a")
    talk.run.live = None

    talk.succeed("main/wait")

    assert talk.inputs() == [{"winner": "a", "agree": 2, "ballots": ["a", "a", None, "b"]}]


def test_an_open_vote_goes_on_where_it_was_when_its_run_is_restored() -> None:
    talk = Conversation(a_vote(votes=5, max_concurrency=2))
    talk.succeed("jury[1]/judge", "b")
    talk.succeed("jury[2]/judge", "a")
    talk.run.live = None

    talk.succeed("jury[0]/judge", "a")

    assert talk.asked() == ["jury[4]/judge#1"]
    talk.run.live = None
    finished = talk.succeed("jury[4]/judge", "a").finished
    assert finished is not None
    assert finished.output["ballots"] == ["a", "b", "a", None, "a"]


def test_that_no_majority_was_possible_stays_so_when_its_run_is_restored() -> None:
    effort = {"sections": [a_vote(votes=5, agree=4), a_task("go")], "join": "best_effort"}
    talk = Conversation({"id": "best", "parallel": effort})
    for slot, ballot in ((4, "b"), (3, "c"), (1, "a")):
        talk.succeed(f"best/jury[{slot}]/judge", ballot)
    talk.run.live = None

    finished = talk.succeed("best/go", 1).finished

    assert finished is not None
    assert finished.output["jury"]["error"]["code"] == "no_majority"


def test_a_redrive_asks_the_failed_and_cancelled_branches_again_and_keeps_the_ballots() -> None:
    talk = Conversation(a_vote())
    talk.succeed("jury[0]/judge", "a")
    talk.fail("jury[1]/judge")
    talk.succeed("jury[2]/judge", "b")
    assert talk.run.status == "failed"

    talk.redrive()

    assert talk.asked() == ["jury[1]/judge#2"]
    finished = talk.succeed("jury[1]/judge", "b", attempt=2).finished
    assert finished is not None
    assert finished.output == {"winner": "b", "agree": 2, "ballots": ["a", "b", "b"]}


def test_a_redrive_of_votes_that_disagree_pays_for_nothing() -> None:
    talk = Conversation(a_vote(votes=2))
    talk.succeed("jury[0]/judge", "a")
    talk.succeed("jury[1]/judge", "b")

    finished = talk.redrive().finished

    assert talk.asked() == []
    assert finished is not None
    assert finished.error is not None
    assert finished.error.code == "no_majority"


def test_a_vote_that_is_too_large_to_keep_fails() -> None:
    talk = Conversation(a_vote(votes=2))
    half = "x" * (VALUE_BYTES_MAX // 2)
    talk.succeed("jury[0]/judge", half)

    finished = talk.succeed("jury[1]/judge", half).finished

    assert finished is not None
    assert finished.error is not None
    assert (finished.error.code, finished.error.step) == ("value_too_large", "jury")
    assert talk.run.steps["jury"].phase.value == "failed"


def test_a_vote_over_a_whole_chain_compares_what_the_chain_gives() -> None:
    each = a_chain(
        a_task("look"), a_model("judge", prompt="{{ look }}"), step_id="each", output={"kind": "{{ judge }}"}
    )
    talk = Conversation(a_vote(each, by="output.kind"))
    for slot in (0, 1):
        talk.succeed(f"jury[{slot}]/each/look", "text")
    talk.succeed("jury[0]/each/judge", "mit")

    finished = talk.succeed("jury[1]/each/judge", "mit").finished

    assert finished is not None
    assert finished.output["winner"] == {"kind": "mit"}
    assert phases(talk)["jury[2]/each/look"] == "cancelled"
