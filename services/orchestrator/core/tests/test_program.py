"""Owns the bond between checking and compiling: what does not compile was refused when it was published."""

from typing import Any

import pytest

from penstock.testkit.builders import a_definition, a_model, a_task, a_tool
from penstock.workflow.checks import check
from services.orchestrator.core.compiler import DefinitionError
from services.orchestrator.core.program import compile_definition

ASK = {"model": "small", "prompt": "Which?"}


def an_agent(**fields: Any) -> dict[str, Any]:
    """An agent `g` with one tool."""
    return {"id": "g", "agent": {"model": "small", "prompt": "", "tools": [{"tool": "a.b"}], **fields}}


def a_plan(**fields: Any) -> dict[str, Any]:
    """A plan `p`."""
    return {"id": "p", "plan": {"model": "small", "prompt": "", **fields}, "do": a_task("a")}


@pytest.mark.parametrize(
    ("do", "says"),
    [
        (a_model("a", model="none"), "a.model: there is no tier `none`"),
        (a_model("a", prompt="{{ 1 + }}"), "a.prompt: "),
        (a_model("a", system="{% if %}"), "a.system: "),
        (a_model("a", output_schema={"type": 7}), "a.output_schema: "),
        (a_task("a", input="{{ 1 + }}"), "a.input: "),
        (a_task("a", output_schema={"type": 7}), "a.output_schema: "),
        (a_tool("a", arguments={"x": "{{ x.y() }}"}), "a.arguments: "),
        ({"id": "m", "parallel": {"map": "1 +", "do": a_task("a")}}, "m.parallel.map: "),
        ({"id": "r", "route": [{"case": "x", "when": "1 +", "do": a_task("a")}]}, "r.route.x.when: "),
        ({"id": "r", "route": [{"case": "otherwise", "when": "true", "do": a_task("a")}]}, "r.route: "),
        ({"id": "r", "route": [{"case": "x", "do": a_task("a")}]}, "r.route.x.when: "),
        ({"id": "r", "route": [{"case": "x", "when": "true", "do": a_task("a")}], "classify": ASK}, "r.route: "),
        ({"id": "r", "route": [{"case": "x", "do": a_task("classify")}], "classify": ASK}, "r.route: "),
        (
            {"id": "r", "route": [{"case": "x", "do": a_task("a")}], "classify": {**ASK, "model": "none"}},
            "classify.model: ",
        ),
        (
            {"id": "r", "route": [{"case": "x", "do": a_task("a"), "description": "{{"}], "classify": ASK},
            "classify.system: ",
        ),
        ({"id": "v", "parallel": {"vote": {"do": a_task("a"), "by": "1 +"}}}, "v.parallel.vote.by: "),
        ({"id": "s", "sleep": "{{ 1 + }}"}, "s.sleep: "),
        ({"id": "s", "sleep": {"until": "{{ 1 + }}"}}, "s.sleep.until: "),
        ({"id": "g", "check": "1 +"}, "g.check: "),
        ({"id": "g", "check": "true", "message": "{{ 1 + }}"}, "g.message: "),
        ({"id": "f", "refine": {"generate": a_task("a"), "score": "1 +"}}, "f.refine.score: "),
        (
            {"id": "f", "refine": {"generate": a_task("a"), "score": "1", "critique": "{{ 1 + }}"}},
            "f.refine.critique: ",
        ),
        ({"id": "f", "refine": {"generate": a_task("a")}}, "f.refine: "),
        (an_agent(model="none"), "g.agent.model: there is no tier `none`"),
        (an_agent(prompt="{{ 1 + }}"), "g.agent.prompt: "),
        (an_agent(system="{% if %}"), "g.agent.system: "),
        (an_agent(stop="1 +"), "g.agent.stop: "),
        (an_agent(output_schema={"type": 7}), "g.agent.output_schema: "),
        (an_agent(tools=[{"tool": "a.b", "arguments_schema": {"type": 7}}]), "g.agent.tools[0]: "),
        (an_agent(tools=[{"tool": "a.b"}, {"tool": "a.b"}]), "g.agent.tools[1]: "),
        (a_plan(model="none"), "p.plan.model: there is no tier `none`"),
        (a_plan(prompt="{{ 1 + }}"), "p.plan.prompt: "),
        (a_plan(system="{% if %}"), "p.plan.system: "),
        (a_plan(task_schema={"type": 7}), "p.plan.task_schema: "),
        ({"id": "c", "chain": [a_task("a")], "output": "{{ a.update() }}"}, "c.output: "),
    ],
)
def test_what_does_not_compile_the_checks_refuse(do: dict[str, Any], says: str) -> None:
    definition = a_definition(do)

    assert check(definition)
    with pytest.raises(DefinitionError) as error:
        compile_definition(definition, "1")
    assert str(error.value).startswith(says)


def test_an_input_schema_that_is_none_does_not_compile() -> None:
    definition = a_definition(input={"type": 7})

    assert check(definition)
    with pytest.raises(DefinitionError, match=r"^input: "):
        compile_definition(definition, "1")
