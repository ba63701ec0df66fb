"""Owns the check of `agent`: its prompts, its grants, what its answer is."""

from typing import Final

from penstock.workflow.checks.checker import Checker, Place
from penstock.workflow.checks.limits import check_caps, check_loop_model
from penstock.workflow.faults import Path
from penstock.workflow.loops import Agent, AgentLoop, GrantedTool
from penstock.workflow.shapes import TEXT, Shape, types_of

INTEGER: Final[Shape] = {"type": "integer"}


def check_agent(checker: Checker, block: Agent, place: Place) -> Shape:
    """The output is the answer: text where no schema is given."""
    loop, path = block.agent, (*place.path, "agent")
    checker.tier(loop.model, (*path, "model"))
    checker.text(loop.prompt, (*path, "prompt"), place.scope)
    if loop.system is not None:
        checker.text(loop.system, (*path, "system"), place.scope)
    checker.schema(loop.output_schema, (*path, "output_schema"))
    answer = loop.output_schema if loop.output_schema is not None else TEXT
    if loop.stop is not None:
        checker.expression(loop.stop, (*path, "stop"), {**place.scope, "answer": answer, "turn": INTEGER})
    _check_grants(checker, loop, path)
    check_caps(checker, loop.caps, (*path, "caps"))
    check_loop_model(checker, loop, place.inside("agent"), loop.caps)
    return answer


def _check_grants(checker: Checker, loop: AgentLoop, path: Path) -> None:
    names: set[str] = set()
    for index, grant in enumerate(loop.tools):
        is_tool = isinstance(grant, GrantedTool)
        at = (*path, "tools", index)
        if grant.name in names:
            checker.add((*at, "tool" if is_tool else "task"), f"`{grant.name}` is granted twice")
        names.add(grant.name)
        field = (*at, "arguments_schema" if is_tool else "input_schema")
        checker.schema(grant.schema_of_arguments, field)
        types = types_of(grant.schema_of_arguments)
        if types and "object" not in types:
            checker.add(field, f"a call's arguments are an object, not {' or '.join(sorted(types))}")
