"""Owns the examples of `chain` and of what templates see."""

from penstock.contracts.messages import ToolRequested
from penstock.testkit.builders import a_chain, a_model, a_task, a_tool
from services.orchestrator.core.tests.conversation import Conversation


def test_a_chain_asks_for_one_step_after_the_other() -> None:
    talk = Conversation(
        a_chain(
            a_task("find", input={"path": "{{ input.path }}"}),
            a_task("read", input="{{ find }}"),
            a_task("sum", input={"text": "{{ read.text }}", "note": "{{ find.size }} bytes of {{ input.path }}"}),
        ),
        {"path": "/tmp"},
    )
    assert talk.asked() == ["main/find#1"]
    assert talk.inputs()[0] == {"path": "/tmp"}

    talk.succeed("main/find", {"size": 12})
    assert talk.asked() == ["main/read#1"]
    assert talk.inputs()[0] == {"size": 12}

    talk.succeed("main/read", {"text": "hello"})
    assert talk.asked() == ["main/sum#1"]
    assert talk.inputs()[0] == {"text": "hello", "note": "12 bytes of /tmp"}

    decision = talk.succeed("main/sum", [1, None, 3])
    assert talk.asked() == []
    assert decision.alarm_at_ms is None
    assert decision.finished is not None
    assert (decision.finished.status, decision.finished.output) == ("completed", [1, None, 3])


def test_a_request_carries_its_attribution_home_and_deadline() -> None:
    talk = Conversation(a_task("work", timeout_seconds=5), labels={"team": "audit"}, priority="batch")
    request = talk.last.requests[0]

    assert (request.run_id, request.home, request.workflow, request.version) == ("run-1", 3, "example", "1")
    assert (request.tenant, request.labels, request.priority.value) == ("default", {"team": "audit"}, "batch")
    assert request.deadline.timestamp() * 1000 == talk.now_ms + 5_000
    assert talk.last.alarm_at_ms == talk.now_ms + 5_000


def test_the_output_of_a_chain_can_be_composed() -> None:
    talk = Conversation(
        a_chain(a_task("one"), a_task("two"), output={"one": "{{ one }}", "both": "{{ one }}{{ two }}"})
    )
    talk.succeed("main/one", 1)

    finished = talk.succeed("main/two", 2).finished

    assert finished is not None
    assert finished.output == {"one": 1, "both": "12"}


def test_a_nested_chain_sees_what_ended_around_it_and_shows_only_its_output() -> None:
    talk = Conversation(
        a_chain(
            a_task("one"),
            a_chain(a_task("two", input="{{ one }}"), step_id="inner"),
            a_task("three", input="{{ inner }}"),
        )
    )
    talk.succeed("main/one", "first")
    assert talk.inputs()[0] == "first"
    talk.succeed("main/inner/two", "second")

    assert talk.asked() == ["main/three#1"]
    assert talk.inputs()[0] == "second"


def test_a_failed_step_fails_the_chain_and_the_run() -> None:
    talk = Conversation(a_chain(a_task("one"), a_task("two")))

    finished = talk.fail("main/one", code="no_such_file", message="there is no /tmp/x").finished

    assert finished is not None
    assert finished.status == "failed"
    assert finished.error is not None
    assert finished.error.model_dump() == {
        "code": "no_such_file",
        "message": "there is no /tmp/x",
        "step": "main/one",
    }
    assert talk.asked() == []


def test_an_expression_that_fails_at_run_time_fails_its_step_by_name() -> None:
    talk = Conversation(a_chain(a_task("find"), a_model("read", prompt="Read {{ find.text }}, please.")))

    finished = talk.succeed("main/find", {"txet": "…"}).finished

    assert finished is not None
    assert finished.error is not None
    assert (finished.error.code, finished.error.step) == ("expression_failed", "main/read")
    assert finished.error.message == (
        "prompt: `Read {{ find.text }}, please.`: `find.text` is not defined: "
        "there is no field `text` (there are: txet)"
    )
    assert talk.run.steps["main/read"].attempt == 0


def test_an_output_that_cannot_be_composed_fails_the_chain() -> None:
    talk = Conversation(a_chain(a_task("one"), output="{{ one.missing }}"))

    finished = talk.succeed("main/one", {}).finished

    assert finished is not None
    assert finished.error is not None
    assert (finished.error.code, finished.error.step) == ("expression_failed", "main")


def test_a_template_without_end_runs_out_of_fuel() -> None:
    loops = "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}"
    talk = Conversation(a_model("work", prompt=loops))

    assert talk.run.error is not None
    assert talk.run.error.code == "expression_failed"
    assert "more than 100000 instructions" in talk.run.error.message


def test_a_run_knows_itself() -> None:
    source = (
        "{{ run.id }} {{ run.tenant }} {{ run.workflow }} {{ run.version }} {{ run.labels.team }} {{ run.started_at }}"
    )
    talk = Conversation(a_task("work", input=source), labels={"team": "audit"})

    assert talk.inputs()[0] == "run-1 default example 1 audit 2026-01-01T00:00:00.000Z"


def test_a_tool_step_is_granted_its_tool_and_no_other() -> None:
    talk = Conversation(
        a_tool("look", tool="files.read", arguments={"path": "{{ input.path }}"}, idempotent=True), {"path": "/a"}
    )
    (request,) = talk.last.requests

    assert isinstance(request, ToolRequested)
    assert (request.tool, request.grants, request.arguments, request.idempotent) == (
        "files.read",
        ["files.read"],
        {"path": "/a"},
        True,
    )
