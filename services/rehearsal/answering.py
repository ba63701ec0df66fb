"""Owns how scripted answers become an executor's messages; what nobody scripted is said, with a snippet to paste."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import yaml

from penstock.contracts import ids
from penstock.contracts.messages import (
    Failure,
    InferenceRequested,
    PricedCost,
    RunFinished,
    TaskRequested,
    TokenUsage,
    ToolRequested,
)
from penstock.testkit.builders import Completed, failed, succeeded
from penstock.workflow.definition import Definition
from penstock.workflow.expressions import ExpressionError, compile_value
from penstock.workflow.faults import nearest
from penstock.workflow.tiers import Price, routes_of
from services.orchestrator.core.children import ChildCompleted, ChildRequested
from services.orchestrator.core.state import Request
from services.orchestrator.core.turn import moment
from services.rehearsal.durations import said
from services.rehearsal.patterns import matches
from services.rehearsal.script import Answer, Answers, InTurn

MILLION: Final = 1_000_000
TOKEN_CHARACTERS: Final = 4
"""About how long a token is; a script that cares says its own counts."""
ASKED_CHARACTERS_MAX: Final = 600
VECTORS_SHOWN_MAX: Final = 8
_INDEX: Final = re.compile(r"\[([0-9]+)\]")


class UnansweredError(Exception):
    """A step asks and the script has no answer; `advice` says what to paste."""

    def __init__(self, message: str, advice: str) -> None:
        super().__init__(message)
        self.advice = advice


class Answering:
    """The answers of one case: its own before those that all cases share, each in the order written."""

    def __init__(self, own: Mapping[str, Answers], shared: Mapping[str, Answers], definition: Definition) -> None:
        self._answers = [*own.items(), *shared.items()]
        self._prices = {
            (route.pool, route.model): route.price for tier in definition.tiers.values() for route in routes_of(tier)
        }
        self._own = tuple(own)
        self._used: set[str] = set()
        self._taken: Counter[int] = Counter()

    def to(self, request: Request, at_ms: int, began_ms: int) -> tuple[int, Completed] | None:
        """When the answer comes, and the answer; None where none ever does. Raises UnansweredError."""
        answer = self._answer(request, at_ms - began_ms)
        if answer.never:
            return None
        at_ms += answer.after
        times = {"executor": "script", "started_at": moment(at_ms - answer.after), "finished_at": moment(at_ms)}
        if isinstance(request, InferenceRequested):
            times |= _used(request, answer, self._prices.get((request.pool, request.model)))
        if answer.fails is not None:
            fails = answer.fails
            error = {"code": fails.code, "message": fails.message, "retry_after_ms": fails.retry_after}
            return at_ms, failed(request, fails.next, **error, **times)
        return at_ms, succeeded(request, self._output(request, answer), **times)

    def unused(self) -> list[str]:
        """The case's own patterns that no step asked under."""
        return [pattern for pattern in self._own if pattern not in self._used]

    def knows(self, path: str) -> bool:
        """Whether the script has an answer for a step, or had."""
        return any(matches(pattern, path) for pattern, _ in self._answers)

    def to_child(self, child: ChildRequested, at_ms: int, began_ms: int) -> tuple[int, ChildCompleted] | None:
        """When a child run ends, and how; None where it never does, or nobody waits. Raises UnansweredError."""
        if child.message.parent is None or not child.message.parent.awaited:
            return None
        answer = self._answer(child, at_ms - began_ms)
        if answer.never:
            return None
        end: dict[str, Any] = {"status": "completed", "output": None}
        if answer.fails is not None:
            end = {"status": "failed", "error": Failure(code=answer.fails.code, message=answer.fails.message)}
        else:
            end["output"] = self._output(child, answer)
        finished = RunFinished(
            run_id=ids.child_run_id(child.request_id),
            workflow=child.message.workflow,
            version="",
            tenant=child.message.tenant or ids.DEFAULT_TENANT,
            started_at=moment(at_ms),
            finished_at=moment(at_ms + answer.after),
            **end,
        )
        return at_ms + answer.after, ChildCompleted(child.step, child.request_id, finished)

    def _answer(self, request: Request | ChildRequested, since_ms: int) -> Answer:
        for number, (pattern, answers) in enumerate(self._answers):
            if not matches(pattern, request.step):
                continue
            self._used.add(pattern)
            if isinstance(answers, Answer):
                return answers
            if isinstance(answers, list):
                return answers[min(request.attempt, len(answers)) - 1]
            found = self._in_turn(number, answers)
            if found is None:
                message = f"`{pattern}` has {len(answers.in_turn)} answers in turn, and {_named(request)} asks for more"
                raise UnansweredError(f"{message}, after {said(since_ms)}", _advice(request))
            return found
        message = f"nothing answers {_named(request)}, after {said(since_ms)}"
        raise UnansweredError(message + self._misspelt(request), _advice(request))

    def _misspelt(self, request: Request | ChildRequested) -> str:
        """What the author may have meant to answer it with."""
        step = request.step.rpartition("/")[2]
        meant = nearest(step, [pattern for pattern, _ in self._answers])
        return (
            f" ({meant.removeprefix('did you mean ').rstrip('?')} is answered)"
            if meant.startswith("did you mean")
            else ""
        )

    def _in_turn(self, number: int, answers: InTurn) -> Answer | None:
        turn = self._taken[number]
        self._taken[number] += 1
        return answers.in_turn[turn] if turn < len(answers.in_turn) else None

    def _output(self, request: Request | ChildRequested, answer: Answer) -> Any:
        scope = _asked(request) | {"step": request.step, "attempt": request.attempt}
        index = _INDEX.findall(request.step)
        scope["index"] = int(index[-1]) if index else 0
        try:
            return compile_value(answer.output)(scope.__getitem__)
        except (ExpressionError, KeyError) as error:
            raise UnansweredError(f"the scripted output for {_named(request)} fails: {error}", "") from None


def _used(request: InferenceRequested, answer: Answer, price: Price | None) -> dict[str, Any]:
    """What a model call used: what the script says, else about what its texts hold, at its route's price."""
    asked = sum(len(message.content) for message in request.messages) + sum(map(len, request.inputs or ()))
    given = 0 if answer.fails is not None or request.inputs is not None else len(str(answer.output))
    usage = TokenUsage(
        input=_tokens(asked) if answer.input_tokens is None else answer.input_tokens,
        output=_tokens(given) if answer.output_tokens is None else answer.output_tokens,
    )
    if answer.cost is not None:
        cost = PricedCost(amount=answer.cost, currency=answer.currency, price_version="script")
        return {"usage": usage, "cost": cost}
    if price is None:
        return {"usage": usage}
    amount = (usage.input * price.input_per_million + usage.output * price.output_per_million) / MILLION
    return {"usage": usage, "cost": PricedCost(amount=amount, currency=price.currency, price_version="definition")}


def _tokens(characters: int) -> int:
    return -(-characters // TOKEN_CHARACTERS)


def _asked(request: Request | ChildRequested) -> dict[str, Any]:
    """What a request asks for, under the names that an author knows."""
    match request:
        case InferenceRequested(operation="embedding"):
            return {"inputs": request.inputs}
        case InferenceRequested():
            said_by = {message.role: message.content for message in request.messages}
            return {"prompt": said_by.get("user", ""), "system": said_by.get("system", "")}
        case ToolRequested():
            return {"arguments": request.arguments}
        case TaskRequested():
            return {"input": request.input}
        case ChildRequested():
            return {"input": request.message.input}


def _named(request: Request | ChildRequested) -> str:
    match request:
        case InferenceRequested():
            what = f"model {request.model} of pool {request.pool}"
        case ToolRequested():
            what = f"tool {request.tool}"
        case TaskRequested():
            what = f"task {request.task}"
        case ChildRequested():
            what = f"a run of {request.message.workflow}"
    return f"{request.step} ({what}, attempt {request.attempt})"


def _advice(request: Request | ChildRequested) -> str:
    """What was asked, and an answer to paste."""
    schema = request.output_schema if isinstance(request, InferenceRequested) else None
    if isinstance(request, InferenceRequested) and schema is None:
        output: Any = "a text" if request.inputs is None else [[0.6, 0.8] for _ in request.inputs[:VECTORS_SHOWN_MAX]]
    else:
        output = example(schema or {})
    snippet = yaml.safe_dump(
        {"answers": {request.step: {"output": output}}}, sort_keys=False, allow_unicode=True, width=100
    )
    asked = yaml.safe_dump(_asked(request), sort_keys=False, allow_unicode=True, width=100)
    if len(asked) > ASKED_CHARACTERS_MAX:
        asked = asked[:ASKED_CHARACTERS_MAX] + "…\n"
    return f"It was asked:\n{_indented(asked)}To answer, put into the case:\n{_indented(snippet)}"


def _indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.rstrip("\n").splitlines())


def example(schema: Mapping[str, Any], depth: int = 0) -> Any:
    """A value to start from: the required fields of a schema, each with something of its type."""
    for keyword in ("const", "default"):
        if keyword in schema:
            return schema[keyword]
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object" and depth < 8:  # a schema may hold itself
        fields = schema.get("properties", {})
        wanted = schema.get("required") or list(fields)
        return {name: example(fields.get(name, {}), depth + 1) for name in wanted}
    if kind == "array" and depth < 8:
        return [example(schema.get("items") or {}, depth + 1) for _ in range(max(1, schema.get("minItems", 1)))][:8]
    return {"number": schema.get("minimum", 0.5), "integer": schema.get("minimum", 1), "boolean": True}.get(kind, "…")
