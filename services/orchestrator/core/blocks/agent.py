"""Owns `agent`: a model calls tools, turn by turn, until it has an answer or a cap stops it.

The conversation is no row: it is what the turns' rows say. What was made of a turn is one, at `<agent>[turn]`: which
calls were refused, or whether the answer was the end.
"""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Final

from penstock.contracts.messages import Failure, StepPhase
from penstock.workflow.expressions import Compiled, ExpressionError
from penstock.workflow.loops import Agent, AgentLoop
from penstock.workflow.schemas import Schema
from services.orchestrator.core.blocks.agent_steps import TALK, Call, Tool, compile_tools, summary_step, turn_step
from services.orchestrator.core.caps import CappedFrame
from services.orchestrator.core.compiler import Compiler, Node
from services.orchestrator.core.dialogue import (
    TEXT,
    Talk,
    canonical,
    exchange,
    older,
    over,
    result,
    result_characters,
    with_turn,
)
from services.orchestrator.core.frames import Answer, Enclosure, Failed, Frame, Succeeded
from services.orchestrator.core.state import Step
from services.orchestrator.core.turn import Turn
from services.orchestrator.core.values import BLOB_UNREADABLE

SUMMARY: Final = -2
SAYING: Final = -1
"""Slots of what an agent has open; those from 0 on are calls."""


@dataclass(frozen=True, slots=True)
class AgentNode:
    """A compiled agent."""

    id: str
    loop: AgentLoop
    saying: Node
    summary: Node
    tools: dict[str, Tool]
    answer: Schema
    stop: Compiled | None

    def enter(self, turn: Turn, parent: Frame, slot: int, path: str) -> Answer:
        """Begins with the first turn."""
        return AgentFrame(self, turn, parent, slot, path).go_on(turn)

    def refusal(self, call: Call, place: int) -> str | None:
        """Why a call is not sent; the model is told so. None: it is sent."""
        if place >= self.loop.parallel_calls_max:
            return f"not called: at most {self.loop.parallel_calls_max} calls at once; call again"
        tool = self.tools.get(call.name)
        if tool is None:
            return f"not called: you are not granted a tool `{call.name}`; there are: {', '.join(sorted(self.tools))}"
        if not isinstance(call.arguments, dict):
            return "not called: `arguments` must be an object"
        fault = tool.arguments.fault(call.arguments)
        return None if fault is None else f"not called: the arguments miss the tool's schema at {fault}"


class AgentFrame(CappedFrame):
    """An open agent: which turn it is in, the conversation before it, its calls that are under way."""

    __slots__ = ("_calls", "_node", "_number", "_open", "_results", "_said", "_seen", "_sent", "_summarised", "_talk")

    def __init__(self, node: AgentNode, turn: Turn, parent: Frame, slot: int, path: str) -> None:
        super().__init__(turn, node.loop.caps, parent, slot, path)
        self._node = node
        self._number = 0
        self._talk = Talk()
        self._summarised = False
        self._said: Any = None
        self._calls: list[Call] = []
        self._results: list[Any] = []
        self._open = 0
        self._sent = 0
        self._seen: Counter[str] = Counter()

    def child_ended(self, turn: Turn, slot: int, answer: Succeeded | Failed) -> Answer:
        """A call brought its result, or the model said something."""
        if slot >= 0:
            self._open -= 1
            self._results[slot] = self._told(slot, answer)
            if self._open:
                return None
            self._close()
            return self.go_on(turn)
        if isinstance(answer, Failed):
            return answer
        ended = self._take(turn, slot, answer.output)
        return ended if ended is not None else self.go_on(turn)

    def go_on(self, turn: Turn) -> Answer:
        """Asks the model until something is awaited or the agent is over."""
        while not self._open:
            slot = SUMMARY if self._wants_summary(turn) else SAYING
            child = self._node.summary if slot == SUMMARY else self._node.saying
            talk = replace(self._talk, last=self._is_last())
            within = Enclosure(self, slot, f"{self.path}[{self._number}]", {TALK: talk})
            answer = child.enter(turn, within, 0, f"{within.path}/{child.id}")
            if not isinstance(answer, Succeeded):
                return answer
            ended = self._take(turn, slot, answer.output)
            if ended is not None:
                return ended
        return None

    def _is_last(self) -> bool:
        """Whether calls would end the agent at one of its caps, so that the model is asked for an answer only."""
        loop = self._node.loop
        return self._number + 1 >= loop.turns_max or self._sent >= loop.tool_calls_max

    def _wants_summary(self, turn: Turn) -> bool:
        """Whether the model is asked for a summary first: where the rows show it was, or it was not asked yet."""
        context, path = self._node.loop.context, f"{self.path}[{self._number}]"
        if context.policy != "summarise" or self._summarised:
            return False
        if f"{path}/{self._node.summary.id}" in turn.run.steps:
            return True
        return f"{path}/{self._node.saying.id}" not in turn.run.steps and over(self._talk.exchanges, context)

    def _take(self, turn: Turn, slot: int, output: Any) -> Answer:
        """Keeps what the model said and begins its calls; None: the agent is not over."""
        if slot == SUMMARY:
            self._talk = Talk(self._talk.exchanges[older(self._talk) :], str(output))
            self._summarised = True
            return None
        try:
            self._said = output = self.whole(output)
        except ExpressionError as error:
            return Failed(self._failure(BLOB_UNREADABLE, str(error)))
        self._calls = [] if "answer" in output else [Call.of(each) for each in output["calls"]]
        self._seen.update(canonical(call.name, call.arguments) for call in self._calls)
        path = f"{self.path}[{self._number}]"
        step = turn.run.steps.get(path)
        if step is None or turn.revives(step):
            step = self._judge(path)
            turn.pin(step)
        if step.error is not None:
            return Failed(step.error)
        if "refused" in step.output:
            self._begin_calls(turn, step.output["refused"])
            return None
        if step.output["told"] is None:
            return Succeeded(output["answer"])
        self._end_turn({"error": step.output["told"]})
        return None

    def _judge(self, path: str) -> Step:
        """What is made of what the model said; a row, so that it is decided once."""
        step = Step(path, "agent", StepPhase.COMPLETED)
        try:
            step.output = {"refused": self._refusals()} if self._calls else {"told": self._misses(self._said["answer"])}
            step.error = self._cap(step.output)
        except ExpressionError as error:
            step.error = Failure(code="expression_failed", message=f"stop: {error}", step=path)
        if step.error is not None:
            step.phase, step.output = StepPhase.FAILED, None
        return step

    def _refusals(self) -> list[str | None]:
        return [self._node.refusal(call, place) for place, call in enumerate(self._calls)]

    def _misses(self, answer: Any) -> str | None:
        """Why an answer is not the end; None: it is."""
        fault = self._node.answer.fault(answer)
        if fault is not None:
            return f"the answer misses its schema at {fault}"
        if self._node.stop is None:
            return None
        scope = Enclosure(self, 0, self.path, {"answer": answer, "turn": self._number})
        return None if self._node.stop(scope.find) else "this is not enough yet; go on, then answer again"

    def _cap(self, decided: dict[str, Any]) -> Failure | None:
        """Which cap forbids the turn that would follow, or its calls."""
        loop, name = self._node.loop, self._node.id
        repeated = [call for call in self._calls if self._seen[canonical(call.name, call.arguments)] > loop.repeats_max]
        if repeated:
            text = (
                f"`{name}` called `{repeated[0].name}` with the same arguments more than {loop.repeats_max} times, its"
                f" repeats_max: look at what the tool answers, or raise `agent.repeats_max` of `{name}`"
            )
            return self._failure("loop_detected", text)
        done = not self._calls and decided["told"] is None
        if not done and self._number + 1 >= loop.turns_max:
            text = (
                f"`{name}` had no answer after {loop.turns_max} turns, its turns_max: raise `agent.turns_max` of"
                f" `{name}`, or make it end sooner"
            )
            return self._failure("turns_exceeded", text)
        sent = self._sent + sum(refused is None for refused in decided.get("refused", ()))
        if sent > loop.tool_calls_max:
            text = (
                f"`{name}` asked for tool call {sent} of {loop.tool_calls_max}, its tool_calls_max; none of this turn's"
                f" was sent: raise `agent.tool_calls_max` of `{name}`"
            )
            return self._failure("tool_calls_exceeded", text)
        return None

    def _failure(self, code: str, message: str) -> Failure:
        return Failure(code=code, message=message, step=f"{self.path}[{self._number}]")

    def _begin_calls(self, turn: Turn, refused: list[str | None]) -> None:
        """Sends what is not refused, side by side."""
        self._results = [None] * len(self._calls)
        for place, (call, reason) in enumerate(zip(self._calls, refused, strict=True)):
            if reason is not None:
                self._results[place] = {"tool": call.name, "error": reason}
                continue
            self._sent += 1
            path = f"{self.path}[{self._number}]/call[{place}]"
            within = Enclosure(self, place, path, {"arguments": call.arguments})
            answer = self._node.tools[call.name].step.enter(turn, within, 0, path)
            if answer is None:
                self._open += 1
            else:
                self._results[place] = self._told(place, answer)
        if not self._open:
            self._close()

    def _told(self, place: int, answer: Succeeded | Failed) -> dict[str, Any]:
        """What the model is told about one call."""
        name = self._calls[place].name
        if isinstance(answer, Failed):
            return {"tool": name, "error": f"{answer.failure.code}: {answer.failure.message}"}
        try:
            output = self.whole(answer.output)
        except ExpressionError as error:
            return {"tool": name, "error": f"{BLOB_UNREADABLE}: {error}"}
        return result(name, output, result_characters(self._node.loop.context, len(self._calls)))

    def _close(self) -> None:
        """All calls of the turn are over."""
        self._end_turn({"results": self._results})

    def _end_turn(self, told: Any) -> None:
        self._talk = with_turn(self._talk, exchange(self._said, told), self._node.loop.context)
        self._number += 1
        self._summarised = False


def compile_agent(block: Agent, compiler: Compiler) -> Node:
    """The agent with the steps of its turns."""
    loop, where = block.agent, f"{block.id}.agent"
    compiler.schema(loop.output_schema, f"{where}.output_schema")
    return AgentNode(
        id=block.id,
        loop=loop,
        saying=turn_step(loop, where, compiler),
        summary=summary_step(loop, where, compiler),
        tools=compile_tools(loop, where, compiler),
        answer=Schema(loop.output_schema if loop.output_schema is not None else TEXT),
        stop=None if loop.stop is None else compiler.expression(loop.stop, f"{where}.stop"),
    )
