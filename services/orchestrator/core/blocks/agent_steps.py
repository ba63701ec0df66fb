"""Owns the steps that an agent's turns are made of: the model's, the summary's, and the calls' of its tools."""

from dataclasses import dataclass
from typing import Any, Final

from penstock.contracts.messages import ChatMessage
from penstock.workflow.expressions import Scope, compile_value
from penstock.workflow.loops import AgentLoop
from penstock.workflow.parts import JsonSchema, ModelStep, ToolStep
from penstock.workflow.schemas import Schema
from services.orchestrator.core.blocks.model import ModelNode
from services.orchestrator.core.blocks.task import TaskNode
from services.orchestrator.core.blocks.tool import ToolNode
from services.orchestrator.core.compiler import Compiler, DefinitionError, Node
from services.orchestrator.core.dialogue import (
    LAST_TURN,
    SAYING,
    SUMMARISER,
    Talk,
    fitted,
    guide,
    instructions,
    opening,
)
from services.orchestrator.core.dialogue import to_summarise as notes_asked_for
from services.orchestrator.core.leaf import LeafNode, evaluated

TALK: Final = "the talk"
"""What the conversation is called in the scope: no name that a template can have."""
ARGUMENTS: Final = compile_value("{{ arguments }}")


@dataclass(frozen=True, slots=True)
class Call:
    """One call as the model asked for it; what it gave as arguments may be anything."""

    name: str
    arguments: Any

    @classmethod
    def of(cls, said: dict[str, Any]) -> "Call":
        """A call out of what the model said."""
        return cls(said["tool"], said.get("arguments", {}))


@dataclass(frozen=True, slots=True)
class Tool:
    """A granted tool or task: the step that a call of it is, and what its arguments must fit."""

    step: LeafNode
    arguments: Schema


class TurnNode(ModelNode):
    """One turn's model call; the scope holds the conversation behind the system message and the prompt."""

    __slots__ = ("_guide", "_guide_last", "_instructions", "_loop")

    def __init__(self, block: ModelStep, loop: AgentLoop, compiler: Compiler) -> None:
        super().__init__(block, compiler)
        self._loop = loop
        self._guide = guide(loop)
        self._guide_last = guide(loop, last=True)
        self._instructions = instructions(loop)

    def messages(self, scope: Scope) -> list[ChatMessage]:
        """The system message, the prompt, and what was said since as far as the context allows."""
        talk: Talk = scope(TALK)
        system = "" if self.system is None else evaluated(self.system, scope, "system") + "\n\n"
        exchanges = fitted(talk.exchanges, self._loop.context)
        left_out = talk.left_out + len(talk.exchanges) - len(exchanges)
        prompt = opening(evaluated(self.prompt, scope, "prompt"), talk, left_out)
        messages = [
            ChatMessage(role="system", content=system + self._instructions),
            ChatMessage(role="user", content=prompt),
        ]
        for each in exchanges:
            messages.append(ChatMessage(role="assistant", content=each.said))
            messages.append(ChatMessage(role="user", content=each.told))
        if talk.last:
            # At the end: an engine that holds what was said before need not read it again.
            messages[-1] = ChatMessage(role="user", content=f"{messages[-1].content}\n\n{LAST_TURN}")
        return messages

    def guide(self, scope: Scope) -> JsonSchema:
        """Calls of the granted tools, or an answer; only that where no call would be made any more."""
        talk: Talk = scope(TALK)
        return self._guide_last if talk.last else self._guide


class SummaryNode(ModelNode):
    """The model call that sums up the older turns, as text."""

    __slots__ = ()

    def messages(self, scope: Scope) -> list[ChatMessage]:
        """What is to be summed up."""
        prompt = notes_asked_for(evaluated(self.prompt, scope, "prompt"), scope(TALK))
        return [ChatMessage(role="system", content=SUMMARISER), ChatMessage(role="user", content=prompt)]


def turn_step(loop: AgentLoop, where: str, compiler: Compiler) -> Node:
    """The step `turn`."""
    return TurnNode(_model_step("turn", loop, where, SAYING, compiler), loop, compiler)


def summary_step(loop: AgentLoop, where: str, compiler: Compiler) -> Node:
    """The step `summary`."""
    notes = _model_step("summary", loop, where, None, compiler).model_copy(
        update={"stream": False}
    )  # for nobody to read
    return SummaryNode(notes, compiler)


def compile_tools(loop: AgentLoop, where: str, compiler: Compiler) -> dict[str, Tool]:
    """The granted tools and tasks by name."""
    tools: dict[str, Tool] = {}
    for index, grant in enumerate(loop.tools):
        at = f"{where}.tools[{index}]"
        if grant.name in tools:
            raise DefinitionError(f"{at}: `{grant.name}` is granted twice")
        compiler.schema(grant.schema_of_arguments, at)
        step = grant.step()
        node: ToolNode | TaskNode
        if isinstance(step, ToolStep):
            node = ToolNode(step, compiler)
            node.given = ARGUMENTS
        else:
            node = TaskNode(step, compiler)
            node.given = ARGUMENTS
        tools[grant.name] = Tool(node, Schema(grant.schema_of_arguments))
    return tools


def _model_step(step_id: str, loop: AgentLoop, where: str, schema: JsonSchema | None, compiler: Compiler) -> ModelStep:
    # Compiled here for the place in the definition that a fault is named by.
    compiler.routes(loop.model, where)
    compiler.text(loop.prompt, f"{where}.prompt")
    if loop.system is not None:
        compiler.text(loop.system, f"{where}.system")
    return ModelStep(
        id=step_id,
        model=loop.model,
        prompt=loop.prompt,
        system=loop.system,
        output_schema=schema,
        max_tokens=loop.max_tokens,
        temperature=loop.temperature,
        seed=loop.seed,
        sampling=loop.sampling,
        adapter=loop.adapter,
        stream=loop.stream,
        timeout_seconds=loop.timeout_seconds,
        retry=loop.retry,
    )
