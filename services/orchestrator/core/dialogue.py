"""Owns what a loop and its model say to each other: the protocol, and how much of a conversation is sent.

Each turn an agent's model answers in JSON: `{"calls": [{"tool": …, "arguments": {…}}]}` or `{"answer": …}`. What the
calls brought goes back as a user message in JSON, so any engine will do that can guide its output by a schema.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from penstock.workflow.loops import AgentContext, AgentLoop, Grant, Planner
from penstock.workflow.parts import JsonSchema
from penstock.workflow.schemas import embedded

TEXT: Final[JsonSchema] = {"type": "string"}
DROPPED: Final = '{"results":"left out here for room; call the tool again where you need them"}'
RESULT_CHARACTERS_MIN: Final = 256
SAYING: Final[JsonSchema] = {
    "type": "object",
    "anyOf": [
        {"required": ["answer"]},
        {
            "required": ["calls"],
            "properties": {
                "calls": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["tool"],
                        "properties": {"tool": {"type": "string"}},
                    },
                }
            },
        },
    ],
}
"""What a model may say at all. All else that is wrong with it (a tool that is not granted) the model is told."""

_PLAIN: Final = frozenset({"type", "properties", "required", "items", "enum", "const", "additionalProperties"})
_BOUNDS: Final = frozenset({"minimum", "maximum", "minItems", "maxItems", "minLength", "maxLength"})
_REMARKS: Final = frozenset({"title", "description", "default", "examples"})


@dataclass(frozen=True, slots=True)
class Exchange:
    """One turn: what the model said and what it was told for that, both in JSON."""

    said: str
    told: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation so far, behind the system message and the prompt. `summary` stands for what came before."""

    exchanges: tuple[Exchange, ...] = ()
    summary: str | None = None
    left_out: int = 0
    """Older turns that are not sent any more, and so not kept."""
    last: bool = False
    """Whether no call would be made any more, so that only an answer is of use."""


def guide(loop: AgentLoop, *, last: bool = False) -> JsonSchema:
    """The schema of one turn for the engine: what a grammar can hold and no more, with the granted tools' names.

    Of the last turn it allows an answer only: a call would be one too many.
    """
    calls = [_call_schema(grant) for grant in loop.tools]
    answer = loop.output_schema if loop.output_schema is not None else TEXT
    several = {
        "type": "array",
        "minItems": 1,
        "maxItems": loop.parallel_calls_max,
        "items": calls[0] if len(calls) == 1 else {"anyOf": calls},
    }
    inner, definitions = embedded(answer)
    if last:
        return {**_object(answer=inner), **definitions}
    return {"anyOf": [_object(answer=inner), _object(calls=several)], **definitions}


def instructions(loop: AgentLoop) -> str:
    """What the model is told about the protocol and its tools, behind the author's own system message."""
    lines = [
        "Answer in JSON only, in one of two forms.",
        f"To call tools, {loop.parallel_calls_max} at most at once:"
        ' {"calls": [{"tool": "<name>", "arguments": {…}}]} The next message holds their results.',
        'When you are done: {"answer": <your answer>}',
        "The answer is text."
        if loop.output_schema is None
        else f"The answer fits this JSON Schema: {_text(loop.output_schema)}",
        "The tools, each with the JSON Schema of its arguments:",
    ]
    for grant in loop.tools:
        about = f": {grant.description}" if grant.description else ""
        lines.append(f"- {grant.name}{about} {_text(grant.schema_of_arguments)}")
    return "\n".join(lines)


def exchange(said: Any, told: Any) -> Exchange:
    """A turn that is over."""
    said_bytes, told_bytes = orjson.dumps(said), orjson.dumps(told)
    return Exchange(said_bytes.decode(), told_bytes.decode(), len(said_bytes) + len(told_bytes))


def result(name: str, output: Any, characters_max: int) -> dict[str, Any]:
    """What a call brought, cut where it is longer than `characters_max` as JSON."""
    text = _text(output)
    if len(text) <= characters_max:
        return {"tool": name, "output": output}
    return {
        "tool": name,
        "output": text[:characters_max],
        "cut": f"the first {characters_max} of {len(text)} characters",
    }


def result_characters(context: AgentContext, calls: int) -> int:
    """How long the result of one of a turn's calls may be, so that they fit together."""
    return max(RESULT_CHARACTERS_MIN, context.bytes_max // max(1, calls))


def canonical(name: str, arguments: Any) -> str:
    """A call as text: two calls are the same where this is."""
    return orjson.dumps([name, arguments], option=orjson.OPT_SORT_KEYS).decode()


def over(exchanges: Sequence[Exchange], context: AgentContext) -> bool:
    """Whether the conversation has outgrown its context."""
    size_bytes = sum(each.size_bytes for each in exchanges)
    return len(exchanges) * 2 > context.messages_max or size_bytes > context.bytes_max


def older(talk: Talk) -> int:
    """How many exchanges a summary stands for: all but the newest, or that too where it is the only one."""
    return max(1, len(talk.exchanges) - 1)


def fitted(exchanges: Sequence[Exchange], context: AgentContext) -> list[Exchange]:
    """The exchanges that are sent: the newest always, those before it as far as they fit."""
    kept = list(exchanges[-max(1, context.messages_max // 2) :])
    size_bytes = sum(each.size_bytes for each in kept)
    if context.policy == "drop_tool_results":
        for index, each in enumerate(kept[:-1]):
            if size_bytes <= context.bytes_max:
                break
            kept[index] = _without_results(each)
            size_bytes += kept[index].size_bytes - each.size_bytes
    first = 0
    while first < len(kept) - 1 and size_bytes > context.bytes_max:
        size_bytes -= kept[first].size_bytes
        first += 1
    return kept[first:]


def _without_results(turn: Exchange) -> Exchange:
    """A turn with a note in the place of its results, where that is shorter."""
    saved_bytes = len(turn.told.encode()) - len(DROPPED)
    return Exchange(turn.said, DROPPED, turn.size_bytes - saved_bytes) if saved_bytes > 0 else turn


def with_turn(talk: Talk, turn: Exchange, context: AgentContext) -> Talk:
    """The conversation with one turn more. What no longer fits never will again: it is forgotten here."""
    exchanges = (*talk.exchanges, turn)
    kept = exchanges if context.policy == "summarise" else tuple(fitted(exchanges, context))
    return replace(talk, exchanges=kept, left_out=talk.left_out + len(exchanges) - len(kept))


LAST_TURN: Final = "This is the last turn: answer now, with what is known."


def opening(prompt: str, talk: Talk, left_out: int) -> str:
    """The first user message: the prompt, the summary of what the model no longer sees, a note on what is left out."""
    parts = [prompt]
    if talk.summary is not None:
        parts.append(f"What was done so far, in short:\n{talk.summary}")
    if left_out:
        parts.append(f"({left_out} earlier turns are left out here.)")
    return "\n\n".join(parts)


SUMMARISER: Final = (
    "You keep the notes of a worker who calls tools. Write down in short what was asked, what was called, what was"
    " found (names, numbers, results that still matter) and what is left to do. Invent nothing."
)


def to_summarise(prompt: str, talk: Talk) -> str:
    """What a summary is asked for."""
    parts = [f"The task:\n{prompt}"]
    if talk.summary is not None:
        parts.append(f"The notes before:\n{talk.summary}")
    parts += [f"It said:\n{each.said}\nIt was told:\n{each.told}" for each in talk.exchanges[: older(talk)]]
    return "\n\n".join([*parts, "Write the notes."])


def planning(planner: Planner, tasks_left: int) -> str:
    """What a planner is told about the form of its answer, behind the author's own system message."""
    last = " An empty list says that nothing is left to do." if planner.rounds_max > 1 else ""
    return (
        'Answer in JSON only: {"tasks": [<sub-task>, …]}'
        f" with {tasks_left} sub-tasks at most.{last}\n"
        f"A sub-task fits this JSON Schema: {_text(planner.task_schema)}"
    )


def _call_schema(grant: Grant) -> JsonSchema:
    """A call of one tool. A schema that a grammar may not hold is left open: arguments are checked in any case."""
    schema = grant.schema_of_arguments
    arguments = schema if _is_plain(schema) and schema.get("type") == "object" else {"type": "object"}
    return _object(tool={"const": grant.name}, arguments=arguments)


def _is_plain(schema: Any) -> bool:
    if not isinstance(schema, dict) or not schema.keys() <= _PLAIN | _BOUNDS | _REMARKS:
        return False
    properties = schema.get("properties", {})
    inside = [*properties.values()] if isinstance(properties, dict) else [None]
    if "items" in schema:
        inside.append(schema["items"])
    others = schema.get("additionalProperties", False)
    return isinstance(others, bool) and all(_is_plain(each) for each in inside)


def _object(**properties: Any) -> JsonSchema:
    """A closed object that has all of these."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _text(value: Any) -> str:
    return orjson.dumps(value).decode()
