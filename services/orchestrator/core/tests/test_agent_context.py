"""Owns the examples of how much of an agent's conversation its model sees."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from penstock.contracts.messages import InferenceRequested
from penstock.testkit.builders import a_chain, a_model, a_task
from penstock.workflow.loops import AgentContext, AgentLoop
from services.orchestrator.core.dialogue import Talk, exchange, fitted, guide, with_turn
from services.orchestrator.core.tests.conversation import Conversation
from services.orchestrator.core.tests.test_agent import an_agent, reads, said

OPEN = {"type": "object"}


def turned(talk: Conversation, number: int, result: Any) -> None:
    """A turn in which the model reads one file and gets `result`."""
    talk.succeed(f"fix[{number}]/turn", reads(f"file{number}"))
    talk.succeed(f"fix[{number}]/call[0]", result)


def context(**fields: Any) -> dict[str, Any]:
    """An agent with a context policy."""
    return an_agent(context=fields, tool_calls_max=100, turns_max=50)


def test_a_window_keeps_the_prompt_and_the_newest_messages() -> None:
    talk = Conversation(context(messages_max=4))
    for number in range(4):
        turned(talk, number, f"text {number}")

    messages = said(talk)

    assert messages[0] == ("user", "Fix it.\n\n(2 earlier turns are left out here.)")
    assert [role for role, _ in messages] == ["user", "assistant", "user", "assistant", "user"]
    assert "text 2" in messages[2][1]
    assert "text 3" in messages[4][1]


def test_a_window_keeps_as_many_bytes_as_it_may_and_the_newest_turn_always() -> None:
    talk = Conversation(context(bytes_max=600))
    for number in range(3):
        turned(talk, number, "x" * 150)
    assert [role for role, _ in said(talk)] == ["user", "assistant", "user", "assistant", "user"]

    turned(talk, 3, "y" * 5_000)

    messages = said(talk)
    assert [role for role, _ in messages] == ["user", "assistant", "user"]
    assert '"cut":"the first 600 of 5002 characters"' in messages[2][1]


def test_old_results_are_dropped_for_a_note_before_turns_are() -> None:
    talk = Conversation(context(policy="drop_tool_results", bytes_max=1_000))
    for number in range(4):
        turned(talk, number, f"{number}" * 400)

    messages = said(talk)

    assert messages[0] == ("user", "Fix it.")
    assert "left out here for room" in messages[2][1]
    assert "left out here for room" in messages[4][1]
    assert "3333" in messages[8][1]
    assert "file0" in messages[1][1]


@given(
    turns=st.lists(st.tuples(st.integers(1, 200), st.integers(1, 600)), max_size=30),
    policy=st.sampled_from(["window", "drop_tool_results"]),
    messages_max=st.integers(2, 20),
    bytes_max=st.integers(256, 2_000),
)
def test_what_is_forgotten_turn_by_turn_would_not_have_been_sent(
    turns: list[tuple[int, int]], policy: str, messages_max: int, bytes_max: int
) -> None:
    """Guard: a window sends the same as if nothing had been forgotten, and what is kept is what is sent."""
    bounds = AgentContext.model_validate({"policy": policy, "messages_max": messages_max, "bytes_max": bytes_max})
    every = [exchange("s" * said, "t" * told) for said, told in turns]
    talk = Talk()
    for each in every:
        talk = with_turn(talk, each, bounds)

    assert list(talk.exchanges) == fitted(talk.exchanges, bounds)
    assert [each.said for each in talk.exchanges] == [each.said for each in every[talk.left_out :]]
    assert talk.exchanges[-1:] == tuple(every[-1:])
    if policy == "window":
        assert list(talk.exchanges) == fitted(every, bounds)
    assert talk.left_out == len(every) - len(talk.exchanges)


def test_a_window_of_messages_drops_no_results() -> None:
    """Guard: notes make room for bytes; where only turns are too many they would tell the model less for nothing."""
    talk = Conversation(context(policy="drop_tool_results", messages_max=4))
    for number in range(4):
        turned(talk, number, f"text {number}" * 20)

    assert "text 2" in said(talk)[2][1]
    assert "text 3" in said(talk)[4][1]


def test_an_outgrown_conversation_is_summed_up_once_by_the_model() -> None:
    talk = Conversation(context(policy="summarise", bytes_max=700))
    turned(talk, 0, "a" * 200)
    turned(talk, 1, "b" * 200)
    assert talk.asked() == ["fix[2]/turn#1"]
    turned(talk, 2, "c" * 200)

    assert talk.asked() == ["fix[3]/summary#1"]
    request = talk.model_call()
    assert request.output_schema is None
    assert "aaa" in request.messages[1].content
    assert "bbb" in request.messages[1].content
    assert "ccc" not in request.messages[1].content
    talk.run.live = None
    talk.succeed("fix[3]/summary", "Read file0 and file1.")

    assert talk.asked() == ["fix[3]/turn#1"]
    messages = said(talk)
    assert messages[0] == ("user", "Fix it.\n\nWhat was done so far, in short:\nRead file0 and file1.")
    assert len(messages) == 3
    assert "ccc" in messages[2][1]
    turned(talk, 3, "d")
    assert said(talk)[0] == messages[0]


def test_a_summary_sums_up_the_one_before_too() -> None:
    talk = Conversation(context(policy="summarise", bytes_max=400))
    turned(talk, 0, "a" * 200)
    turned(talk, 1, "b" * 200)
    talk.succeed("fix[2]/summary", "Notes one.")
    turned(talk, 2, "c" * 200)

    assert talk.asked() == ["fix[3]/summary#1"]
    assert "Notes one." in talk.model_call().messages[1].content


def test_a_summary_that_fails_fails_the_agent_and_is_redriven() -> None:
    talk = Conversation(context(policy="summarise", bytes_max=256))
    turned(talk, 0, "a" * 300)
    talk.fail("fix[1]/summary")
    assert talk.run.status == "failed"

    talk.redrive()

    assert talk.asked() == ["fix[1]/summary#2"]


def test_a_step_around_an_agent_may_have_any_name() -> None:
    """Guard: what an agent keeps in its scope hides no step."""
    agent = an_agent(prompt="{{ talk }} {{ arguments }} {{ turn }}")
    talk = Conversation(a_chain(a_model("talk"), a_task("arguments"), a_task("turn"), agent))
    talk.succeed("main/talk", "one")
    talk.succeed("main/arguments", 2)
    talk.succeed("main/turn", 3)

    (request,) = talk.last.requests
    assert isinstance(request, InferenceRequested)
    assert request.messages[1].content == "one 2 3"


def a_loop(schema: dict[str, Any], **fields: Any) -> AgentLoop:
    """An agent with one tool."""
    tool = {"tool": "files.read", "arguments_schema": schema}
    return AgentLoop.model_validate({"model": "small", "prompt": "", "tools": [tool], **fields})


def test_arguments_are_guided_where_a_grammar_can_hold_their_schema() -> None:
    plain = {"type": "object", "properties": {"paths": {"type": "array", "items": {"enum": ["a", "b"]}}}}
    odd = {"type": "object", "properties": {"path": {"type": "string", "pattern": "^/"}}}

    for schema, guided in ((plain, plain), (odd, OPEN), ({"$ref": "#/$defs/x"}, OPEN), ({}, OPEN)):
        several = guide(a_loop(schema))["anyOf"][1]["properties"]["calls"]
        assert several["items"]["properties"]["arguments"] == guided


def test_references_of_the_answers_schema_lead_where_they_did() -> None:
    schema = {"type": "array", "items": {"$ref": "#/$defs/fact"}, "$defs": {"fact": {"type": "string"}}}

    guided = guide(a_loop(OPEN, output_schema=schema))

    assert guided["$defs"] == {"fact": {"type": "string"}}
    assert guided["anyOf"][0]["properties"]["answer"] == {"type": "array", "items": {"$ref": "#/$defs/fact"}}
