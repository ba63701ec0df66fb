"""Owns the examples of `plan`."""

from typing import Any

from penstock.contracts.messages import StepPhase
from penstock.testkit.builders import a_chain, a_child_run, a_model, a_task, tokens
from services.orchestrator.core.tests.conversation import Conversation
from services.orchestrator.core.tests.guards import check_caps

WORK = a_task("work", input="{{ round }}.{{ index }}: {{ task }}")
JOIN = a_task("join", input="{{ results }}")


def a_plan(*, do: dict[str, Any] = WORK, join: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """A plan `audit`; `fields` named as the block's are the block's, others the planner's."""
    own: dict[str, Any] = {name: fields.pop(name) for name in ("max_concurrency", "caps") if name in fields}
    prompt = "Round {{ round }}: {{ results | length }} results."
    return {"id": "audit", "plan": {"model": "small", "prompt": prompt, **fields}, "do": do, "join": join, **own}


def prompt(talk: Conversation) -> str:
    """What the planner was asked."""
    return talk.model_call().messages[1].content


def test_a_planner_divides_the_work_that_is_done_side_by_side_and_joined() -> None:
    talk = Conversation(a_plan(join=JOIN))
    assert (talk.asked(), prompt(talk)) == (["audit[0]/plan#1"], "Round 0: 0 results.")

    talk.succeed("audit[0]/plan", {"tasks": ["a", "b"]})
    assert talk.asked() == ["audit[0]/task[0]/work#1", "audit[0]/task[1]/work#1"]
    assert talk.inputs() == ["0.0: a", "0.1: b"]
    talk.succeed("audit[0]/task[1]/work", "B")
    talk.succeed("audit[0]/task[0]/work", "A")

    assert talk.asked() == ["audit/join#1"]
    assert talk.inputs() == [[{"task": "a", "output": "A"}, {"task": "b", "output": "B"}]]
    finished = talk.succeed("audit/join", "AB").finished
    assert finished is not None
    assert finished.output == "AB"


def test_without_a_join_the_results_are_the_output() -> None:
    talk = Conversation(a_plan())
    talk.succeed("audit[0]/plan", {"tasks": ["a"]})

    finished = talk.succeed("audit[0]/task[0]/work", 1).finished

    assert finished is not None
    assert finished.output == [{"task": "a", "output": 1}]


def test_the_planner_is_guided_to_what_is_left() -> None:
    schema = {"type": "object", "properties": {"file": {"$ref": "#/$defs/file"}}, "$defs": {"file": {"type": "string"}}}
    talk = Conversation(a_plan(task_schema=schema, tasks_max=3, rounds_max=5, system="You divide."))

    request = talk.model_call()
    assert request.messages[0].content.startswith(
        'You divide.\n\nAnswer in JSON only: {"tasks": [<sub-task>, …]} with 3'
    )
    assert request.output_schema is not None
    assert request.output_schema["properties"]["tasks"]["maxItems"] == 3
    assert request.output_schema["$defs"] == {"file": {"type": "string"}}
    talk.succeed("audit[0]/plan", {"tasks": [{"file": "a"}, {"file": "b"}]})
    talk.succeed("audit[0]/task[0]/work")
    talk.succeed("audit[0]/task[1]/work")

    again = talk.model_call().output_schema
    assert again is not None
    assert again["properties"]["tasks"]["maxItems"] == 1


def test_an_empty_list_ends_the_planning() -> None:
    talk = Conversation(a_plan(rounds_max=5, join=JOIN))
    talk.succeed("audit[0]/plan", {"tasks": ["a"]})
    talk.succeed("audit[0]/task[0]/work", "A")
    assert (talk.asked(), prompt(talk)) == (["audit[1]/plan#1"], "Round 1: 1 results.")

    talk.succeed("audit[1]/plan", {"tasks": []})

    assert talk.inputs() == [[{"task": "a", "output": "A"}]]


def test_rounds_are_bounded_and_so_are_the_sub_tasks_of_all_rounds() -> None:
    by_rounds = Conversation(a_plan(rounds_max=2))
    by_tasks = Conversation(a_plan(rounds_max=9, tasks_max=2))
    for talk in (by_rounds, by_tasks):
        for number in range(2):
            talk.succeed(f"audit[{number}]/plan", {"tasks": ["a"]})
            talk.succeed(f"audit[{number}]/task[0]/work")

        assert talk.run.status == "completed"
        assert len(talk.run.output) == 2


def test_more_sub_tasks_than_are_left_fail_the_plan_before_any_is_begun() -> None:
    talk = Conversation(a_plan(tasks_max=2, rounds_max=2))
    talk.succeed("audit[0]/plan", {"tasks": ["a"]})
    talk.succeed("audit[0]/task[0]/work")

    talk.succeed("audit[1]/plan", {"tasks": ["b", "c"]})

    error = talk.run.error
    assert error is not None
    assert (error.code, error.step) == ("plan_tasks_exceeded", "audit[1]/plan")
    assert "wants 3 sub-tasks, its tasks_max is 2" in error.message
    assert "raise `plan.tasks_max` of `audit`" in error.message
    assert talk.asked() == []


def test_a_plan_that_misses_the_schema_of_sub_tasks_is_put_right_by_the_planner() -> None:
    talk = Conversation(a_plan(task_schema={"type": "integer"}))

    talk.succeed("audit[0]/plan", {"tasks": ["a"]})

    assert talk.asked() == ["audit[0]/plan#2"]
    assert "refused: the output misses its schema at $.tasks[0]" in talk.model_call().messages[2].content


def test_no_more_sub_tasks_run_at_once_than_allowed() -> None:
    talk = Conversation(a_plan(max_concurrency=2))
    talk.succeed("audit[0]/plan", {"tasks": ["a", "b", "c"]})
    assert talk.asked() == ["audit[0]/task[0]/work#1", "audit[0]/task[1]/work#1"]

    talk.succeed("audit[0]/task[1]/work")

    assert talk.asked() == ["audit[0]/task[2]/work#1"]


def test_a_sub_task_that_fails_fails_the_plan_and_cancels_the_others() -> None:
    talk = Conversation(a_plan())
    talk.succeed("audit[0]/plan", {"tasks": ["a", "b"]})

    talk.fail("audit[0]/task[1]/work", message="no")

    assert talk.run.error is not None
    assert talk.run.error.step == "audit[0]/task[1]/work"
    assert talk.run.steps["audit[0]/task[0]/work"].phase is StepPhase.CANCELLED
    talk.redrive()
    assert talk.asked() == ["audit[0]/task[0]/work#2", "audit[0]/task[1]/work#2"]


def test_an_interrupted_plan_goes_on_where_it_was() -> None:
    """Guard: every decision is made twice, by a run that was restored before it; nothing is asked for again."""
    talk = Conversation(a_chain(a_plan(rounds_max=2, join=JOIN, max_concurrency=1), a_task("end", input="{{ audit }}")))
    for number in range(2):
        for path, output in (("plan", {"tasks": [number, number]}), ("task[0]/work", "x"), ("task[1]/work", "y")):
            talk.run.live = None
            talk.succeed(f"main/audit[{number}]/{path}", output if path != "plan" else {"tasks": ["a", "b"]})
    talk.run.live = None
    talk.succeed("main/audit/join", "joined")

    assert talk.inputs() == ["joined"]
    assert len(talk.requests) == 2 + 4 + 1 + 1


def test_the_plans_caps_hold_for_all_model_calls_below_it() -> None:
    worker = a_model("work", prompt="{{ task }}", max_tokens=10)
    talk = Conversation(a_plan(do=worker, caps={"model_calls": 2}, max_tokens=10))
    talk.succeed("audit[0]/plan", {"tasks": ["a", "b"]}, **tokens())

    error = talk.run.error
    assert error is not None
    assert (error.code, error.step) == ("budget_exceeded", "audit[0]/task[1]/work")
    assert "raise `caps.model_calls` of the block `audit`" in error.message
    assert talk.asked() == []


def test_what_a_child_run_spent_counts_once_after_a_restart() -> None:
    """Guard: a restored block adds up its rows before they say what the child spent."""
    usage = {"model_calls": 2, "input_tokens": 30, "output_tokens": 12, "cost": {"amount": "0.5", "currency": "USD"}}
    talk = Conversation(a_plan(do=a_chain(a_child_run("review"), WORK), caps={"tokens": 5_000}))
    talk.succeed("audit[0]/plan", {"tasks": ["a"]}, **tokens())
    talk.run.live = None

    talk.child_ended("audit[0]/task[0]/main/review", "done", usage=usage)

    check_caps(talk)


def test_a_failed_branch_within_a_plan_leaves_the_rest_of_its_caps_to_others() -> None:
    inner = {"id": "try", "parallel": {"sections": [a_model("one"), a_model("two")], "join": "best_effort"}}
    talk = Conversation(a_plan(do=inner, caps={"model_calls": 2}))

    talk.succeed("audit[0]/plan", {"tasks": ["a"]}, **tokens())

    assert talk.asked() == ["audit[0]/task[0]/try/one#1"]
    talk.succeed("audit[0]/task[0]/try/one", "x", **tokens())
    assert talk.run.output[0]["output"]["two"]["error"]["code"] == "budget_exceeded"


def test_an_agent_may_do_a_sub_task() -> None:
    agent = {"id": "fix", "agent": {"model": "small", "prompt": "{{ task }}", "tools": [{"tool": "a.b"}]}}
    talk = Conversation(a_plan(do=agent))
    talk.succeed("audit[0]/plan", {"tasks": ["a"]})
    talk.succeed("audit[0]/task[0]/fix[0]/turn", {"calls": [{"tool": "a.b"}]})
    assert talk.asked() == ["audit[0]/task[0]/fix[0]/call[0]#1"]
    talk.succeed("audit[0]/task[0]/fix[0]/call[0]", 1)

    finished = talk.succeed("audit[0]/task[0]/fix[1]/turn", {"answer": "done"}).finished

    assert finished is not None
    assert finished.output == [{"task": "a", "output": "done"}]
