"""Owns the examples of what executors are told: whose answer nobody awaits any more, once, and of nothing else."""

from penstock.contracts.messages import NextMove
from penstock.testkit.builders import a_child_run, a_model, a_task, a_tool
from services.orchestrator.core.tests.conversation import Conversation


def sections(*blocks: dict[str, object], **fields: object) -> dict[str, object]:
    """A parallel block of sections."""
    return {"id": "all", "parallel": {"sections": list(blocks), **fields}}


def told(talk: Conversation) -> list[str]:
    """What the last decision tells executors to stop: `path#attempt`."""
    return [f"{each.step}#{each.attempt}" for each in talk.last.cancellations]


def test_a_branch_that_is_not_needed_is_cancelled_at_its_executor() -> None:
    # given three branches of which one is enough
    talk = Conversation(sections(a_model("one"), a_tool("two"), a_task("three"), join={"quorum": 1}))

    # when one has answered
    talk.succeed("all/two", "yes")

    # then the executors of the others hear of it, with the ids of their requests
    assert told(talk) == ["all/one#1", "all/three#1"]
    first = talk.last.cancellations[0]
    assert first.request_id == talk.requests["all/one", 1].request_id
    assert (first.run_id, first.reason) == ("run-1", "its answer is not needed any more")


def test_the_end_of_a_run_cancels_what_is_awaited_and_nothing_else() -> None:
    talk = Conversation(sections(a_task("one"), a_task("two"), a_task("three")))
    talk.succeed("all/one")
    talk.fail("all/two", NextMove.RETRY_AFTER)

    talk.cancel("enough")

    assert told(talk) == ["all/three#1"]


def test_an_attempt_that_took_too_long_is_cancelled_before_the_next_is_asked_for() -> None:
    talk = Conversation(a_model("say", timeout_seconds=5))

    talk.ring()

    assert told(talk) == ["say#1"]
    assert talk.last.cancellations[0].reason == "no answer came in time"
    assert talk.asked() == ["say#2"]


def test_a_request_that_the_same_event_made_is_neither_sent_nor_cancelled() -> None:
    # given two branches that time out together, the second of which has no attempt left
    two = a_task("two", timeout_seconds=5, retry={"attempts": 1})
    talk = Conversation(sections(a_model("one", timeout_seconds=5), two))

    # when they do, then the first is asked again by the same event that ends the run
    talk.ring()

    assert talk.asked() == []
    assert told(talk) == ["all/one#1", "all/two#1"]


def test_a_step_whose_undo_hangs_on_its_answer_is_left_to_end() -> None:
    step = {**a_task("book"), "undo": {"task": "tasks.unbook", "input": {}}}
    talk = Conversation(sections(step, a_task("other")))

    talk.fail("all/other")

    assert told(talk) == []
    talk.succeed("all/book", "B1")
    assert talk.asked() == ["all/book/undo#1"]


def test_an_undo_is_left_to_end_though_its_time_is_over() -> None:
    step = {**a_task("book"), "undo": {"task": "tasks.unbook", "input": {}, "timeout_seconds": 3_600}}
    talk = Conversation({"id": "main", "chain": [step, a_task("pay")]}, undo_seconds=20)
    talk.succeed("main/book")
    talk.fail("main/pay")

    talk.ring()

    assert talk.run.status == "failed"
    assert told(talk) == []


def test_a_child_run_is_asked_to_end_in_its_own_way() -> None:
    talk = Conversation(sections(a_child_run("child"), a_task("other"), join={"quorum": 1}))

    talk.succeed("all/other")

    assert told(talk) == []
    assert [each.step for each in talk.last.abandoned] == ["all/child"]


def test_a_sleep_asks_nobody_and_tells_nobody() -> None:
    talk = Conversation(sections({"id": "nap", "sleep": 60}, a_task("other"), join={"quorum": 1}))

    talk.succeed("all/other")

    assert told(talk) == []
