"""Owns the examples of `agent`: turns, calls, refusals, caps, and that a restart pays for nothing twice."""

from typing import Any

import pytest

from penstock.contracts.messages import StepPhase, TaskRequested, ToolRequested
from penstock.testkit.builders import a_chain, a_task, tokens
from services.orchestrator.core.tests.conversation import Conversation
from services.orchestrator.core.tests.guards import check_caps

READ = {
    "tool": "files.read",
    "description": "Reads a file.",
    "arguments_schema": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
}
FIND = {"task": "tasks.find", "input_schema": {"type": "object"}, "queue": "default"}


def an_agent(**fields: Any) -> dict[str, Any]:
    """An agent `fix` that may read files and find things."""
    return {"id": "fix", "agent": {"model": "small", "prompt": "Fix it.", "tools": [READ, FIND], **fields}}


def calls(*named: tuple[str, Any]) -> dict[str, Any]:
    """What a model says to call tools."""
    return {"calls": [{"tool": name, "arguments": arguments} for name, arguments in named]}


def reads(*paths: str) -> dict[str, Any]:
    """What a model says to read files."""
    return calls(*(("files.read", {"path": path}) for path in paths))


def said(talk: Conversation) -> list[tuple[str, str]]:
    """The conversation that the last decision sent, behind the system message."""
    return [(message.role, message.content) for message in talk.model_call().messages[1:]]


def test_a_model_calls_tools_side_by_side_until_it_has_an_answer() -> None:
    talk = Conversation(an_agent())
    assert talk.asked() == ["fix[0]/turn#1"]
    assert said(talk) == [("user", "Fix it.")]

    talk.succeed("fix[0]/turn", calls(("files.read", {"path": "a"}), ("tasks.find", {"what": "b"})))
    assert talk.asked() == ["fix[0]/call[0]#1", "fix[0]/call[1]#1"]
    read, find = talk.last.requests
    assert isinstance(read, ToolRequested)
    assert isinstance(find, TaskRequested)
    assert (read.tool, read.arguments, read.grants) == ("files.read", {"path": "a"}, ["files.read"])
    assert (find.task, find.input, find.queue) == ("tasks.find", {"what": "b"}, "default")

    assert talk.succeed("fix[0]/call[1]", [1]).requests == []
    talk.succeed("fix[0]/call[0]", "text")
    assert talk.asked() == ["fix[1]/turn#1"]
    assert said(talk) == [
        ("user", "Fix it."),
        (
            "assistant",
            '{"calls":[{"tool":"files.read","arguments":{"path":"a"}},{"tool":"tasks.find","arguments":{"what":"b"}}]}',
        ),
        ("user", '{"results":[{"tool":"files.read","output":"text"},{"tool":"tasks.find","output":[1]}]}'),
    ]
    finished = talk.succeed("fix[1]/turn", {"answer": "done"}).finished

    assert finished is not None
    assert finished.output == "done"


def test_the_model_is_told_its_tools_and_guided_to_them() -> None:
    talk = Conversation(an_agent(system="You are {{ input.who }}.", parallel_calls_max=3), {"who": "a fixer"})

    request = talk.model_call()

    system = request.messages[0].content
    assert system.startswith("You are a fixer.\n\nAnswer in JSON only")
    assert '- files.read: Reads a file. {"type":"object","properties":{"path":{"type":"string"}}' in system
    assert "- tasks.find " in system
    assert request.output_schema is not None
    answer, several = request.output_schema["anyOf"]
    assert answer["properties"] == {"answer": {"type": "string"}}
    assert several["properties"]["calls"]["maxItems"] == 3
    named = [each["properties"]["tool"] for each in several["properties"]["calls"]["items"]["anyOf"]]
    assert named == [{"const": "files.read"}, {"const": "tasks.find"}]


@pytest.mark.parametrize("cap", [{"turns_max": 2}, {"tool_calls_max": 1}])
def test_where_a_cap_allows_no_more_calls_the_model_is_guided_to_an_answer(cap: dict[str, int]) -> None:
    # given an agent whose next turn is the last that can be of use
    talk = Conversation(an_agent(**cap))
    assert "anyOf" in (talk.model_call().output_schema or {})
    talk.succeed("fix[0]/turn", reads("a"))

    # when the turn after its call is asked for
    talk.succeed("fix[0]/call[0]", "text")

    # then it can only answer, and is told why
    request = talk.model_call()
    assert request.output_schema is not None
    assert list(request.output_schema["properties"]) == ["answer"]
    assert "the last turn" in request.messages[-1].content


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (("files.delete", {}), "not called: you are not granted a tool `files.delete`; there are: files.read, tasks"),
        (("files.read", {"path": 7}), "not called: the arguments miss the tool's schema at $.path: 7 is not of type"),
        (("files.read", "a"), "not called: `arguments` must be an object"),
        (("files.read", {}), "not called: the arguments miss the tool's schema at $: "),
    ],
)
def test_a_call_that_may_not_be_made_is_not_sent_and_the_model_is_told(call: tuple[str, Any], says: str) -> None:
    talk = Conversation(an_agent())

    talk.succeed("fix[0]/turn", calls(call))

    assert talk.asked() == ["fix[1]/turn#1"]
    assert says in said(talk)[-1][1]
    row = talk.run.steps["fix[0]"]
    assert (row.kind, row.phase) == ("agent", StepPhase.COMPLETED)
    assert row.output["refused"][0].startswith("not called")


def test_of_the_calls_of_one_turn_only_those_that_may_be_made_are_sent() -> None:
    talk = Conversation(an_agent(parallel_calls_max=2))

    talk.succeed("fix[0]/turn", calls(("files.delete", {}), ("files.read", {"path": "a"}), ("tasks.find", {})))

    assert talk.asked() == ["fix[0]/call[1]#1"]
    talk.succeed("fix[0]/call[1]", "text")
    assert "at most 2 calls at once" in said(talk)[-1][1]


def test_a_failed_call_is_reported_to_the_model_and_fails_nothing() -> None:
    talk = Conversation(an_agent())
    talk.succeed("fix[0]/turn", reads("a"))

    talk.fail("fix[0]/call[0]", code="not_there", message="no such file")

    assert talk.asked() == ["fix[1]/turn#1"]
    assert said(talk)[-1] == ("user", '{"results":[{"tool":"files.read","error":"not_there: no such file"}]}')


def test_an_answer_that_misses_its_schema_or_is_not_enough_goes_back() -> None:
    schema = {"type": "object", "properties": {"sure": {"type": "number"}}, "required": ["sure"]}
    talk = Conversation(an_agent(output_schema=schema, stop="answer.sure > 0.5 or turn >= 3"))

    talk.succeed("fix[0]/turn", {"answer": {"sure": "very"}})
    assert "the answer misses its schema at $.sure" in said(talk)[-1][1]
    talk.succeed("fix[1]/turn", {"answer": {"sure": 0.1}})
    assert "not enough yet" in said(talk)[-1][1]
    talk.succeed("fix[2]/turn", {"answer": {"sure": 0.9}})

    assert talk.run.output == {"sure": 0.9}


def test_a_model_that_says_neither_is_asked_to_put_it_right() -> None:
    talk = Conversation(an_agent())

    talk.succeed("fix[0]/turn", {"calls": []})

    assert talk.asked() == ["fix[0]/turn#2"]
    assert "refused: the output misses its schema" in said(talk)[-1][1]


@pytest.mark.parametrize(
    ("fields", "code", "step", "says"),
    [
        ({"turns_max": 2}, "turns_exceeded", "fix[1]", "after 2 turns, its turns_max: raise `agent.turns_max`"),
        ({"tool_calls_max": 1}, "tool_calls_exceeded", "fix[1]", "tool call 2 of 1, its tool_calls_max"),
    ],
)
def test_a_cap_stops_the_agent_and_names_itself(fields: dict[str, Any], code: str, step: str, says: str) -> None:
    talk = Conversation(an_agent(**fields))
    talk.succeed("fix[0]/turn", reads("a"))
    talk.succeed("fix[0]/call[0]", "text")

    finished = talk.succeed("fix[1]/turn", reads("b")).finished

    assert talk.asked() == []
    assert finished is not None
    assert finished.error is not None
    assert (finished.error.code, finished.error.step) == (code, step)
    assert says in finished.error.message


def test_the_same_call_too_often_is_a_loop_whatever_the_order_of_its_arguments() -> None:
    talk = Conversation(an_agent(repeats_max=2))
    for number, arguments in enumerate(({"a": 1, "b": [2]}, {"b": [2], "a": 1})):
        talk.succeed(f"fix[{number}]/turn", calls(("tasks.find", arguments)))
        talk.succeed(f"fix[{number}]/call[0]", None)

    talk.succeed("fix[2]/turn", calls(("tasks.find", {"a": 1, "b": [2]})))

    error = talk.run.error
    assert error is not None
    assert error.code == "loop_detected"
    assert "more than 2 times, its repeats_max" in error.message


def test_refused_calls_that_repeat_are_a_loop_too() -> None:
    talk = Conversation(an_agent(repeats_max=1))
    talk.succeed("fix[0]/turn", calls(("files.delete", {})))
    talk.succeed("fix[1]/turn", calls(("files.delete", {})))

    assert talk.run.error is not None
    assert talk.run.error.code == "loop_detected"


@pytest.mark.parametrize(
    ("caps", "says"),
    [
        ({"model_calls": 1}, "the cap of model calls is 1: 1 spent"),
        ({"tokens": 3_000}, "the cap of tokens is 3000: 2500 spent"),
        ({"cost": {"amount": "0.001"}}, "the cap of cost is 0.001 USD: 0.001 spent"),
    ],
)
def test_the_agents_caps_stop_its_next_model_call(caps: dict[str, Any], says: str) -> None:
    talk = Conversation(an_agent(caps=caps, max_tokens=100))
    talk.succeed("fix[0]/turn", reads("a"), **tokens(2_000, 500, "0.001"))
    assert talk.run.status == "running"

    talk.succeed("fix[0]/call[0]", "text")

    error = talk.run.error
    assert error is not None
    assert (error.code, error.step) == ("budget_exceeded", "fix[1]/turn")
    assert says in error.message
    assert f"raise `caps.{next(iter(caps))}` of the block `fix`" in error.message


def test_what_a_block_spent_is_added_up_once_whenever_it_is_restored() -> None:
    """Guard: a restored block adds up its rows when it is first asked, be that by an answer, a timeout or an end."""
    both = [an_agent(caps={"tokens": 50_000}), a_task("other")]
    for told in ("answer", "timeout", "cancelled"):
        talk = Conversation({"id": "all", "parallel": {"sections": both, "join": "best_effort"}})
        talk.succeed("all/fix[0]/turn", reads("a", "b"), **tokens(2_000, 500))
        talk.succeed("all/fix[0]/call[0]")
        talk.succeed("all/fix[0]/call[1]")
        talk.run.live = None
        match told:
            case "answer":
                talk.succeed("all/fix[1]/turn", reads("c"), **tokens(1_000, 100))
            case "timeout":
                talk.ring()
            case _:
                talk.fail("all/fix[1]/turn", **tokens(1_000, 100))
        check_caps(talk)


def test_caps_count_attempts_that_nobody_answered() -> None:
    talk = Conversation(an_agent(caps={"model_calls": 2}, timeout_seconds=5, retry={"attempts": 5}))

    talk.ring()
    assert talk.asked() == ["fix[0]/turn#2"]
    talk.ring()  # no answer again: the third attempt is put off
    talk.ring()

    assert talk.run.error is not None
    assert talk.run.error.code == "budget_exceeded"


def test_an_interrupted_agent_goes_on_where_it_was() -> None:
    """Guard: every decision is made twice, by a run that was restored before it; nothing is asked for again."""
    talk = Conversation(a_chain(an_agent(), a_task("end", input="{{ fix }}")))
    for number in range(3):
        talk.run.live = None
        talk.succeed(f"main/fix[{number}]/turn", reads(f"a{number}", f"b{number}"))
        talk.run.live = None
        talk.succeed(f"main/fix[{number}]/call[1]", number)
        talk.fail(f"main/fix[{number}]/call[0]")
    talk.run.live = None
    talk.succeed("main/fix[3]/turn", {"answer": "done"})

    assert talk.inputs() == ["done"]
    assert sorted(talk.requests) == sorted(set(talk.requests))


def test_what_was_made_of_a_turn_is_decided_once() -> None:
    """Guard: a restored run goes by the turn's row, even where the answer would now be the end."""
    talk = Conversation(an_agent(stop="turn > 0"))
    talk.succeed("fix[0]/turn", {"answer": "no"})
    talk.run.steps["fix[0]"].output = {"told": "because I say so"}
    talk.run.live = None

    talk.succeed("fix[1]/turn", reads("a"))
    talk.succeed("fix[1]/call[0]", "text")

    assert said(talk)[2] == ("user", '{"error":"because I say so"}')


def test_a_failed_turn_is_redriven_with_every_result_kept() -> None:
    talk = Conversation(an_agent())
    talk.succeed("fix[0]/turn", reads("a"))
    talk.succeed("fix[0]/call[0]", "text")
    talk.fail("fix[1]/turn")
    assert talk.run.status == "failed"

    talk.redrive()

    assert talk.asked() == ["fix[1]/turn#2"]
    assert "text" in said(talk)[-1][1]


def test_an_agent_that_is_cancelled_awaits_nothing() -> None:
    talk = Conversation({"id": "all", "parallel": {"sections": [an_agent(), a_task("other")]}})
    talk.succeed("all/fix[0]/turn", reads("a", "b"))
    talk.succeed("all/fix[0]/call[0]")

    talk.fail("all/other")

    assert talk.run.steps["all/fix[0]/call[1]"].phase is StepPhase.CANCELLED
    assert talk.succeed("all/fix[0]/call[1]").empty
