"""Owns the examples of undoing: what is taken back, in which order, with what, and when the run is over."""

from typing import Any

import pytest

from penstock.contracts.messages import NextMove, StepPhase
from penstock.testkit.builders import BEGINNING_MS, a_chain, a_child_run, a_task, a_tool
from services.orchestrator.core.tests.conversation import Conversation


def undone_by(step: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A step with an undo, which is a task that is given the step's output."""
    undo = {"task": f"tasks.un_{step['id']}", "input": {"of": "{{ output }}"}, "retry": {"attempts": 1}, **fields}
    return {**step, "undo": undo}


def a_booking(*more: dict[str, Any], **fields: Any) -> Conversation:
    """A chain of two steps that can be undone and one that cannot, both of the first done."""
    steps = [undone_by(a_task("flight")), undone_by(a_task("hotel")), a_task("pay"), *more]
    talk = Conversation(a_chain(*steps), **fields)
    talk.succeed("main/flight", "F1")
    talk.succeed("main/hotel", "H1")
    return talk


def test_a_run_that_completes_undoes_nothing() -> None:
    talk = a_booking()
    talk.succeed("main/pay")
    assert talk.run.status == "completed"
    assert talk.asked() == []


def test_a_failed_run_undoes_what_completed_the_last_first_one_after_the_other() -> None:
    talk = a_booking()
    # when the third step fails
    decision = talk.fail("main/pay")
    # then the second one is undone with its own output, and the run is not over
    assert talk.asked() == ["main/hotel/undo#1"]
    assert talk.inputs() == [{"of": "H1"}]
    assert decision.finished is None
    assert (talk.run.status, talk.run.undoing) == ("running", "failed")
    assert talk.run.error is not None
    assert talk.run.error.code == "broken"
    # and then the first one
    talk.succeed("main/hotel/undo")
    assert talk.inputs() == [{"of": "F1"}]
    decision = talk.succeed("main/flight/undo")
    # and then it says so, with the original failure
    assert decision.finished is not None
    assert (decision.finished.status, talk.run.undoing) == ("failed", None)
    assert decision.finished.error is not None
    assert (decision.finished.error.code, decision.finished.error.step) == ("broken", "main/pay")
    assert "undone" not in decision.finished.error.message
    assert talk.run.steps["main/hotel/undo"].kind == "undo"


def test_a_cancelled_run_undoes_too() -> None:
    talk = a_booking()
    talk.cancel("not needed")
    assert talk.asked() == ["main/hotel/undo#1"]
    talk.succeed("main/hotel/undo")
    decision = talk.succeed("main/flight/undo")
    assert decision.finished is not None
    assert decision.finished.status == "cancelled"
    assert talk.run.steps["main/pay"].phase is StepPhase.CANCELLED


def test_the_templates_of_an_undo_see_what_their_step_saw() -> None:
    # given items with an undo each, which are done in another order than they began
    book = undone_by(a_task("book"), input="{{ item }} {{ index }} {{ output.id }} {{ run.id }}")
    talk = Conversation(a_chain({"id": "each", "parallel": {"map": "input", "do": book}}, a_task("pay")), ["a", "b"])
    talk.succeed("main/each[1]/book", {"id": 7})
    talk.succeed("main/each[0]/book", {"id": 8})
    # when the run fails, then they are undone in the reverse order of their completion
    talk.fail("main/pay")
    assert talk.inputs() == ["a 0 8 run-1"]
    talk.succeed("main/each[0]/book/undo")
    assert talk.inputs() == ["b 1 7 run-1"]


def test_the_order_of_completion_within_one_moment_is_kept() -> None:
    names = [f"s{number}" for number in range(12)]
    sides = {"sections": [undone_by(a_task(name)) for name in names]}
    talk = Conversation(a_chain({"id": "all", "parallel": sides}, a_task("pay")))
    done = names[6:] + names[:6]
    for name in done:
        talk.succeed(f"main/all/{name}")
    talk.fail("main/pay")
    undone = []
    while talk.run.status == "running":
        (path,) = [request.step for request in talk.last.requests]
        undone.append(path.split("/")[2])
        talk.succeed(path)
    assert undone == done[::-1]


def test_an_undo_is_retried_as_it_says() -> None:
    flight = undone_by(a_task("flight"), retry={"attempts": 2, "initial_ms": 1_000})
    talk = Conversation(a_chain(flight, a_task("pay")))
    talk.succeed("main/flight")
    talk.fail("main/pay")
    talk.fail("main/flight/undo", NextMove.RETRY_AFTER)
    talk.ring()
    assert talk.asked() == ["main/flight/undo#2"]
    talk.succeed("main/flight/undo", attempt=2)
    assert talk.run.status == "failed"


def test_an_undo_that_fails_for_good_is_named_and_stops_nothing() -> None:
    talk = a_booking()
    talk.fail("main/pay")
    talk.fail("main/hotel/undo", code="gone", message="no such hotel")
    assert talk.asked() == ["main/flight/undo#1"]
    decision = talk.succeed("main/flight/undo")
    row = talk.run.steps["main/hotel/undo"]
    assert row.error is not None
    assert row.error.code == "undo_failed"
    assert decision.finished is not None
    assert decision.finished.error is not None
    assert decision.finished.error.code == "broken"
    assert "Not undone: main/hotel (gone: no such hotel)" in decision.finished.error.message


def test_an_undo_whose_template_fails_is_one_that_fails() -> None:
    flight = undone_by(a_task("flight"), input="{{ output.id }}")
    talk = Conversation(a_chain(flight, a_task("pay")))
    talk.succeed("main/flight", {"number": 7})
    decision = talk.fail("main/pay")
    assert talk.asked() == []
    assert decision.finished is not None
    assert decision.finished.error is not None
    assert "Not undone: main/flight (expression_failed" in decision.finished.error.message


def test_a_tool_can_undo_a_tool() -> None:
    write = a_tool("write", undo={"tool": "files.remove", "arguments": {"path": "{{ output.path }}"}})
    talk = Conversation(a_chain(write, a_task("pay")))
    talk.succeed("main/write", {"path": "/tmp/x"})
    talk.fail("main/pay")
    (request,) = talk.last.requests
    assert request.model_dump(include={"tool", "arguments", "grants"}) == {
        "tool": "files.remove",
        "arguments": {"path": "/tmp/x"},
        "grants": ["files.remove"],
    }


def test_undoing_has_a_time_of_its_own() -> None:
    # given a run that fails at its very deadline
    talk = a_booking(deadline_seconds=10, undo_seconds=30)
    talk.ring()
    assert talk.run.error is not None
    assert talk.run.error.code == "deadline_exceeded"
    # then it undoes all the same, for so long
    assert talk.asked() == ["main/hotel/undo#1"]
    assert talk.last.alarm_at_ms == BEGINNING_MS + 40_000
    # when that is over, then what is not undone is named
    decision = talk.ring()
    assert decision.finished is not None
    assert decision.finished.error is not None
    assert decision.finished.error.code == "deadline_exceeded"
    assert "main/flight (the time for undoing was over; raise undo_seconds" in decision.finished.error.message
    assert "main/hotel (the time for undoing was over" in decision.finished.error.message


def test_undoing_is_not_bound_by_the_steps_a_run_may_take() -> None:
    talk = a_booking(a_task("more"), steps_max=3)
    talk.succeed("main/pay")
    assert talk.run.error is not None
    assert talk.run.error.code == "steps_exceeded"
    assert talk.asked() == ["main/hotel/undo#1"]


def test_a_cancel_while_undoing_changes_nothing() -> None:
    talk = a_booking()
    talk.fail("main/pay")
    assert talk.cancel("quick").empty
    assert talk.redrive().empty
    talk.succeed("main/hotel/undo")
    talk.succeed("main/flight/undo")
    assert talk.run.status == "failed"


def test_a_result_is_undone_once() -> None:
    talk = a_booking()
    talk.fail("main/pay")
    talk.succeed("main/hotel/undo")
    assert talk.succeed("main/hotel/undo").empty
    talk.succeed("main/flight/undo")
    assert talk.succeed("main/flight/undo").empty


@pytest.mark.parametrize("how", ["success", "failure", "silence"])
def test_a_step_that_may_have_taken_effect_is_waited_for(how: str) -> None:
    # given a step with an undo that is at work when the run is cancelled
    talk = Conversation(
        a_chain(undone_by(a_task("flight")), undone_by(a_task("hotel"), input="{{ flight }} {{ output }}"))
    )
    talk.succeed("main/flight", "F1")
    talk.now_ms += 1_000
    decision = talk.cancel("not needed")
    # then nothing is undone before its answer
    assert talk.asked() == []
    assert decision.finished is None
    assert decision.alarm_at_ms == BEGINNING_MS + 60_000
    match how:
        case "success":  # it took effect: it is undone first
            talk.succeed("main/hotel", "H1")
            assert talk.inputs() == ["F1 H1"]
            talk.succeed("main/hotel/undo")
        case "failure":  # it did not
            talk.fail("main/hotel")
        case _:  # nobody knows
            talk.ring()
    assert talk.inputs() == [{"of": "F1"}]
    decision = talk.succeed("main/flight/undo")
    assert decision.finished is not None
    assert decision.finished.error is not None
    assert ("main/hotel (it may have taken effect" in decision.finished.error.message) is (how == "silence")
    # and what it says now is too late
    assert talk.succeed("main/hotel", "H2").empty


def test_what_a_cancelled_branch_did_all_the_same_is_undone_if_the_run_fails_later() -> None:
    # given a branch that is cancelled at work, in a run that goes on
    both = {"sections": [undone_by(a_task("slow")), a_task("bad")]}
    effort = {"sections": [{"id": "inner", "parallel": both}], "join": "best_effort"}
    talk = Conversation(a_chain({"id": "outer", "parallel": effort}, a_task("pay")))
    talk.fail("main/outer/inner/bad")
    assert talk.run.steps["main/outer/inner/slow"].phase is StepPhase.CANCELLED
    # when it answers, then the run takes note and goes on
    assert not talk.succeed("main/outer/inner/slow", "S1").empty
    assert talk.asked() == []
    assert talk.run.steps["main/outer/inner/slow"].phase is StepPhase.CANCELLED
    # and undoes it when it fails
    talk.fail("main/pay")
    assert talk.inputs() == [{"of": "S1"}]
    talk.succeed("main/outer/inner/slow/undo")
    assert talk.run.status == "failed"


def test_a_step_that_was_never_sent_is_not_waited_for() -> None:
    bad = a_task("bad", input="{{ input.missing }}")
    talk = Conversation({"id": "all", "parallel": {"sections": [undone_by(a_task("flight")), bad]}})
    assert (talk.run.status, talk.asked()) == ("failed", [])


def test_a_redrive_begins_again_what_was_undone() -> None:
    # given a failed run whose second step was undone, and whose first could not be
    talk = a_booking()
    talk.fail("main/pay")
    talk.succeed("main/hotel/undo")
    talk.fail("main/flight/undo")
    # when it is redriven, then what was undone is done again, and only then what failed
    talk.redrive()
    assert talk.asked() == ["main/hotel#2"]
    talk.succeed("main/hotel", "H2", attempt=2)
    talk.ring()
    assert talk.asked() == ["main/pay#2"]
    # when it fails again, then it undoes again, with what came out this time
    talk.fail("main/pay", attempt=2)
    talk.ring()
    assert talk.asked() == ["main/hotel/undo#2"]
    assert talk.inputs() == [{"of": "H2"}]
    talk.succeed("main/hotel/undo", attempt=2)
    talk.ring()
    assert talk.inputs() == [{"of": "F1"}]
    decision = talk.succeed("main/flight/undo", attempt=2)
    assert decision.finished is not None
    assert decision.finished.error is not None
    assert "Not undone" not in decision.finished.error.message


def test_a_redriven_run_can_complete() -> None:
    talk = a_booking()
    talk.fail("main/pay")
    talk.succeed("main/hotel/undo")
    talk.succeed("main/flight/undo")
    talk.redrive()
    assert talk.asked() == ["main/flight#2"]
    talk.succeed("main/flight", "F2", attempt=2)
    talk.ring()
    talk.succeed("main/hotel", "H2", attempt=2)
    talk.ring()
    talk.succeed("main/pay", "paid", attempt=2)
    assert (talk.run.status, talk.run.output) == ("completed", "paid")


def test_a_child_run_can_be_undone() -> None:
    child = a_child_run("order", undo={"task": "orders.withdraw", "input": "{{ output.id }}"})
    talk = Conversation(a_chain(child, a_task("pay")))
    talk.child_ended("main/order", {"id": 7})
    talk.fail("main/pay")
    assert talk.inputs() == [7]


def test_only_the_answer_of_the_last_attempt_settles_a_cancelled_step() -> None:
    # given a step whose first attempt took too long, and whose second one is at work when the run is cancelled
    flight = undone_by(a_task("flight", timeout_seconds=10, retry={"attempts": 2, "initial_ms": 1_000}))
    talk = Conversation(a_chain(flight, a_task("pay")))
    talk.ring()
    talk.ring()
    assert talk.asked() == ["main/flight#2"]
    talk.cancel()
    # when the first one answers, then the second one is still waited for
    assert talk.succeed("main/flight", "F1").empty
    talk.succeed("main/flight", "F2", attempt=2)
    assert talk.inputs() == [{"of": "F2"}]


def test_undos_do_not_count_as_steps_after_a_redrive() -> None:
    talk = a_booking(steps_max=6)
    talk.fail("main/pay")
    talk.succeed("main/hotel/undo")
    talk.succeed("main/flight/undo")
    talk.redrive()
    for path, output in (("main/flight", "F2"), ("main/hotel", "H2"), ("main/pay", "paid")):
        talk.succeed(path, output, attempt=2)
        if talk.run.status == "running":
            talk.ring()
    assert (talk.run.status, talk.run.output) == ("completed", "paid")


def test_what_may_have_taken_effect_stays_said_after_a_redrive() -> None:
    # given a cancelled branch whose answer never came, in a run that failed later
    both = {"sections": [undone_by(a_task("slow")), a_task("bad")]}
    effort = {"sections": [{"id": "inner", "parallel": both}], "join": "best_effort"}
    talk = Conversation(a_chain({"id": "outer", "parallel": effort}, a_task("pay")))
    talk.fail("main/outer/inner/bad")
    talk.fail("main/pay")
    talk.ring()
    # when it is redriven and fails again, with that branch still made do with
    talk.redrive()
    assert talk.asked() == ["main/pay#2"]
    decision = talk.fail("main/pay", attempt=2)
    # then its end says so again
    assert decision.finished is not None
    assert decision.finished.error is not None
    assert "main/outer/inner/slow (it may have taken effect" in decision.finished.error.message
