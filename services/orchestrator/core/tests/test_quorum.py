"""Owns the examples of `join: {quorum: n}`: enough branches end a block, and too many failures do."""

from typing import Any

from penstock.contracts.messages import StepPhase
from penstock.testkit.builders import a_chain, a_task
from services.orchestrator.core.tests.conversation import Conversation


def sections(quorum: int, *blocks: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A parallel block `all` of sections."""
    return {"id": "all", "parallel": {"sections": list(blocks), "join": {"quorum": quorum}, **fields}}


def a_map(quorum: int, over: str = "range(4)", **fields: Any) -> dict[str, Any]:
    """A parallel block `docs` that maps a task `read`."""
    return {"id": "docs", "parallel": {"map": over, "do": a_task("read"), "join": {"quorum": quorum}, **fields}}


def phases(talk: Conversation) -> dict[str, str]:
    """Each step's phase."""
    return {path: step.phase.value for path, step in talk.run.steps.items()}


def test_enough_branches_end_the_block_and_the_others_are_cancelled() -> None:
    talk = Conversation(sections(2, a_task("one"), a_task("two"), a_task("three")))
    talk.succeed("all/three", 3)

    finished = talk.succeed("all/one", 1).finished

    assert finished is not None
    assert finished.output == {"one": 1, "two": None, "three": 3}
    assert phases(talk)["all/two"] == "cancelled"
    assert talk.succeed("all/two", 2).empty


def test_a_failed_branch_is_null_while_the_quorum_can_be_reached() -> None:
    talk = Conversation(a_chain(a_map(2), a_task("join", input="{{ docs }}")))
    talk.fail("main/docs[0]/read")
    talk.fail("main/docs[3]/read")
    talk.succeed("main/docs[2]/read", "c")

    talk.succeed("main/docs[1]/read", "b")

    assert talk.inputs() == [[None, "b", "c", None]]


def test_branches_that_were_not_begun_never_are() -> None:
    talk = Conversation(a_map(2, max_concurrency=2))
    talk.succeed("docs[0]/read", "a")
    assert talk.asked() == ["docs[2]/read#1"]

    finished = talk.succeed("docs[2]/read", "c").finished

    assert finished is not None
    assert finished.output == ["a", None, "c", None]
    assert talk.asked() == []
    assert "docs[3]/read" not in talk.run.steps


def test_what_the_same_event_makes_unneeded_is_not_sent() -> None:
    """Guard: the task is entered before the gate that ends the block."""
    talk = Conversation(sections(1, a_task("slow"), {"id": "known", "check": "input.known"}), {"known": True})

    assert talk.asked() == []
    assert talk.run.output == {"slow": None, "known": True}


def test_a_quorum_is_missed_as_soon_as_it_cannot_be_reached() -> None:
    talk = Conversation(a_map(3))
    talk.fail("docs[2]/read", message="no third")
    assert talk.run.status == "running"

    finished = talk.fail("docs[1]/read", message="no second").finished

    assert finished is not None
    assert finished.error is not None
    assert finished.error.model_dump() == {
        "code": "quorum_missed",
        "message": "3 of 4 branches must succeed (`parallel.join.quorum`) and 2 failed, the first of them "
        "docs[1]/read: no second",
        "step": "docs",
    }
    assert phases(talk)["docs[0]/read"] == phases(talk)["docs[3]/read"] == "cancelled"


def test_a_quorum_of_more_than_there_are_is_missed_at_once() -> None:
    talk = Conversation(a_map(3, over="input.names"), {"names": ["a", "b"]})

    assert talk.asked() == []
    assert talk.run.error is not None
    assert (talk.run.error.code, talk.run.error.step) == ("quorum_missed", "docs")
    assert talk.run.error.message == "3 of 2 branches must succeed (`parallel.join.quorum`)"


def test_what_a_missed_quorum_says_does_not_change_when_its_run_is_restored() -> None:
    """Guard: which branch failed first is not in the rows; the outer best effort keeps what was said."""
    talk = Conversation(
        {"id": "best", "parallel": {"sections": [a_map(3), a_task("go")], "join": "best_effort", "max_concurrency": 9}}
    )
    talk.fail("best/docs[2]/read", message="no third")
    talk.fail("best/docs[1]/read", message="no second")
    assert talk.run.status == "running"
    talk.run.live = None

    finished = talk.succeed("best/go", 1).finished

    assert finished is not None
    assert "the first of them best/docs[1]/read: no second" in finished.output["docs"]["error"]["message"]


def test_a_reached_quorum_stays_reached_when_its_run_is_restored() -> None:
    talk = Conversation(a_chain(a_map(2, max_concurrency=3), a_task("join", input="{{ docs }}"), a_task("end")))
    talk.succeed("main/docs[1]/read", "b")
    talk.succeed("main/docs[2]/read", "c")
    talk.run.live = None

    talk.succeed("main/join")

    assert talk.asked() == ["main/end#1"]


def test_branches_of_several_steps_count_when_they_are_over() -> None:
    each = a_chain(a_task("read"), a_task("sum"), step_id="each")
    talk = Conversation(
        {"id": "docs", "parallel": {"map": "range(2)", "do": each, "join": {"quorum": 1}}},
    )
    talk.succeed("docs[0]/each/read")
    talk.succeed("docs[1]/each/read")

    finished = talk.succeed("docs[1]/each/sum", "B").finished

    assert finished is not None
    assert finished.output == [None, "B"]
    assert phases(talk)["docs[0]/each/sum"] == "cancelled"


def test_a_redrive_begins_failed_and_cancelled_branches_again() -> None:
    talk = Conversation(a_map(3))
    talk.succeed("docs[0]/read", "a")
    talk.fail("docs[1]/read")
    talk.fail("docs[2]/read")

    talk.redrive()

    assert sorted(talk.asked()) == ["docs[1]/read#2", "docs[2]/read#2", "docs[3]/read#2"]
    talk.succeed("docs[2]/read", "c", attempt=2)
    finished = talk.succeed("docs[3]/read", "d", attempt=2).finished
    assert finished is not None
    assert finished.output == ["a", None, "c", "d"]


def test_a_redrive_begins_no_more_branches_than_may_run_at_once() -> None:
    """Guard: a failed branch for which there is no room stays failed, until a redrive that has room for it."""
    talk = Conversation(a_map(3, max_concurrency=2))
    talk.fail("docs[0]/read")
    talk.fail("docs[2]/read")
    assert talk.run.status == "failed"
    assert phases(talk)["docs[1]/read"] == "cancelled"

    talk.redrive()
    assert sorted(talk.asked()) == ["docs[0]/read#2", "docs[1]/read#2"]

    talk.succeed("docs[0]/read", "a", attempt=2)
    assert talk.asked() == ["docs[3]/read#1"]
    talk.fail("docs[3]/read")
    assert talk.run.status == "failed"
    talk.redrive()
    assert sorted(talk.asked()) == ["docs[1]/read#3", "docs[2]/read#2"]
    talk.succeed("docs[1]/read", "b", attempt=3)
    finished = talk.succeed("docs[2]/read", "c", attempt=2).finished
    assert finished is not None
    assert finished.output == ["a", "b", "c", None]


def test_a_cancelled_branch_for_which_a_redrive_had_no_room_begins_later() -> None:
    talk = Conversation(a_map(4, over="range(5)", max_concurrency=2))
    talk.fail("docs[0]/read")
    talk.fail("docs[1]/read")
    assert phases(talk)["docs[2]/read"] == "cancelled"

    talk.redrive()
    assert sorted(talk.asked()) == ["docs[0]/read#2", "docs[1]/read#2"]
    talk.succeed("docs[0]/read", "a", attempt=2)
    talk.run.live = None
    talk.ring()

    assert talk.asked() == ["docs[2]/read#2"]


def test_a_redrive_tries_again_what_failed_inside_a_branch_and_keeps_what_that_made_do_with() -> None:
    effort = {"id": "effort", "parallel": {"sections": [a_task("x"), a_task("y")], "join": "best_effort"}}
    each = a_chain(effort, a_task("sum", input="{{ effort }}"), step_id="each")
    talk = Conversation({"id": "docs", "parallel": {"map": "range(2)", "do": each, "join": {"quorum": 2}}})
    talk.fail("docs[0]/each/effort/x")
    talk.succeed("docs[0]/each/effort/y", 1)
    talk.fail("docs[0]/each/sum")
    assert talk.run.error is not None
    assert talk.run.error.step == "docs"

    talk.redrive()

    assert "docs[0]/each/sum#2" in talk.asked()
    assert "docs[0]/each/effort/x#2" not in talk.asked()


def test_a_redrive_of_nested_quorums_reaches_the_branch_that_failed() -> None:
    inner = {"id": "inner", "parallel": {"sections": [a_task("x"), a_task("y")], "join": {"quorum": 2}}}
    talk = Conversation({"id": "docs", "parallel": {"map": "range(2)", "do": inner, "join": {"quorum": 2}}})
    talk.succeed("docs[0]/inner/x", 1)
    talk.fail("docs[0]/inner/y")

    talk.redrive()

    assert sorted(talk.asked()) == ["docs[0]/inner/y#2", "docs[1]/inner/x#2", "docs[1]/inner/y#2"]


def test_a_redrive_elsewhere_leaves_what_a_quorum_did_not_need() -> None:
    talk = Conversation(a_chain(a_map(1), a_task("last")))
    talk.succeed("main/docs[2]/read", "c")
    talk.fail("main/last")

    talk.redrive()

    assert talk.asked() == ["main/last#2"]
    assert talk.run.steps["main/docs[0]/read"].phase is StepPhase.CANCELLED


def test_a_missed_quorum_fails_at_once_what_stands_around_it() -> None:
    outer = {"id": "outer", "parallel": {"sections": [a_map(4), a_task("other")]}}
    talk = Conversation(outer)

    finished = talk.fail("outer/docs[3]/read").finished

    assert finished is not None
    assert finished.error is not None
    assert (finished.error.code, finished.error.step) == ("quorum_missed", "outer/docs")
    assert phases(talk)["outer/other"] == "cancelled"
