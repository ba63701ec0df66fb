"""Owns a run's history as a person reads it: each event with the time since the start, and all that it led to.

The same form, without its ids, is what replaying compares: a golden history is a test of the core.
"""

from dataclasses import fields, is_dataclass
from decimal import Decimal
from enum import Enum
from typing import Any, Final
from uuid import UUID

import yaml

from penstock.contracts.messages import (
    Failure,
    InferenceRequested,
    PricedCost,
    RunFinished,
    RunRequested,
    TaskRequested,
    TokenUsage,
    ToolRequested,
    WorkError,
)
from penstock.testkit.builders import Completed, failed, succeeded
from penstock.workflow.dump import style_of
from services.orchestrator.core.children import ChildCompleted, ChildRequested
from services.orchestrator.core.decide import AlarmDue, Cancelled, ChildEnded, Event, Outcome, Redriven
from services.orchestrator.core.state import NOTHING, Change, Decision, Request, Step, Unanswered
from services.rehearsal.durations import milliseconds, said

Entry = dict[str, Any]
"""`at`, the event under its name, and what it led to: `asks`, `rows`, `told`, `alarm`, `ended`."""

_WIDTH: Final = 400


def entry(at_ms: int, event: dict[str, Any], decision: Decision, began_ms: int) -> Entry:
    """One event and its decision."""

    def since(time_ms: int | None) -> str | None:
        return None if time_ms is None else said(time_ms - began_ms)

    made: Entry = {"at": since(at_ms), **event}
    if decision.requests or decision.children:
        made["asks"] = [_request(request, began_ms) for request in decision.requests]
        made["asks"] += [_child(child) for child in decision.children]
    if decision.abandoned:
        made["gives_up"] = [child.step for child in decision.abandoned]
    if decision.cancellations:
        made["cancels"] = [f"{each.step}#{each.attempt}" for each in decision.cancellations]
    if decision.steps:
        made["rows"] = {step.path: _row(step, began_ms) for step in decision.steps}
    if decision.changes:
        made["told"] = [_told(change) for change in decision.changes]
    if decision.alarm_at_ms is not None:
        made["alarm"] = since(decision.alarm_at_ms)
    if decision.finished is not None:
        ended = decision.finished.model_dump(mode="json", exclude_none=True)
        result = {"output": ended["output"]} if ended["status"] == "completed" else {"error": ended["error"]}
        made["ended"] = {"status": ended["status"], **result, "usage": ended["usage"]}
    return made


def of_request(request: RunRequested) -> dict[str, Any]:
    """The event that begins a run."""
    return {"requested": request.model_dump(mode="json", exclude_none=True, exclude_defaults=True)}


def of_event(event: Event) -> dict[str, Any]:
    """Any later event."""
    match event:
        case Outcome(message=message):
            return _answered(message)
        case ChildEnded(message=child):
            finished = child.finished.model_dump(mode="json", exclude_none=True)
            return {"child_ended": {"step": child.step, "finished": finished}}
        case Cancelled(reason=reason):
            return {"cancelled": reason}
        case Redriven():
            return {"redriven": True}
        case AlarmDue():
            return {"alarm_rings": True}


def event_from(made: Entry, asked: dict[tuple[str, int], Request], began_ms: int) -> Event:
    """The event that an entry tells of; `asked` are the requests so far. Raises ValueError where it tells of none."""
    at_ms = began_ms + milliseconds(made["at"])
    if "cancelled" in made:
        return Cancelled(made["cancelled"], at_ms)
    if "redriven" in made:
        return Redriven(at_ms)
    if "alarm_rings" in made:
        return AlarmDue(at_ms)
    if "child_ended" in made:
        finished = RunFinished.model_validate(made["child_ended"]["finished"])
        request_id = UUID(finished.run_id.removeprefix("child-"))
        return ChildEnded(ChildCompleted(made["child_ended"]["step"], request_id, finished), at_ms)
    for status in ("succeeded", "failed"):
        if status in made:
            path, _, attempt = made[status].rpartition("#")
            return Outcome(_completed(made, asked[path, int(attempt)]), at_ms)
    raise ValueError(f"no event: {', '.join(made)}")


def _answered(message: Completed) -> dict[str, Any]:
    made: dict[str, Any] = {message.status: f"{message.step}#{message.attempt}"}
    if message.error is not None:
        made["error"] = message.error.model_dump(mode="json", exclude_none=True)
    else:
        made["output"] = message.output
    used = message.model_dump(mode="json", include={"usage", "cost"}, exclude_defaults=True)
    return made | ({"used": used} if used else {})


def _completed(made: Entry, request: Request) -> Completed:
    used = made.get("used", {})
    extra: dict[str, Any] = {}
    if "usage" in used:
        extra["usage"] = TokenUsage.model_validate(used["usage"])
    if "cost" in used:
        extra["cost"] = PricedCost.model_validate(used["cost"])
    if "error" not in made:
        return succeeded(request, made["output"], **extra)
    error = WorkError.model_validate(made["error"])
    return failed(
        request, error.next, code=error.code, message=error.message, retry_after_ms=error.retry_after_ms, **extra
    )


def _request(request: Request, began_ms: int) -> Entry:
    made: Entry = {"step": f"{request.step}#{request.attempt}"}
    match request:
        case InferenceRequested(operation="embedding"):
            made["embed"] = f"{request.pool}/{request.model}"
            own = {"inputs"}
        case InferenceRequested():
            made["model"] = f"{request.pool}/{request.model}"
            made["messages"] = [{message.role: message.content} for message in request.messages]
            own = {"output_schema", "choices", "regex", "max_tokens", "temperature", "seed", "sampling", "adapter"}
            own |= {"on_overflow", "stream"}
        case ToolRequested():
            made["tool"] = request.tool
            own = {"arguments", "grants", "idempotent"}
        case TaskRequested():
            made["task"] = request.task
            own = {"queue", "input"}
    made |= request.model_dump(mode="json", include=own, exclude_none=True, exclude_defaults=True)
    made["until"] = said(round(request.deadline.timestamp() * 1000) - began_ms)
    return made


def _child(child: ChildRequested) -> Entry:
    own = {"input", "labels", "budget"}
    said_of_it = child.message.model_dump(mode="json", include=own, exclude_none=True, exclude_defaults=True)
    return {"step": f"{child.step}#{child.attempt}", "run": child.message.workflow, **said_of_it}


def _row(step: Step, began_ms: int) -> Entry:
    """What a step's row says; what is as at its beginning is left out."""
    made: Entry = {}
    for each in fields(step):
        value = getattr(step, each.name)
        if each.name in ("path", "request_id") or (each.name != "output" and value == each.default):
            continue
        if each.name == "output" and value is None:
            continue
        if each.name == "unanswered":
            made[each.name] = [_unanswered(attempt) for attempt in value]
        elif each.name.endswith("_at_ms"):
            made[each.name.removesuffix("_ms")] = said(value - began_ms)
        else:
            made[each.name] = _plain(value)
    return made


def _unanswered(attempt: Unanswered) -> Entry:
    most = {} if attempt.most == NOTHING else {"most": _plain(attempt.most)}
    return {"attempt": attempt.attempt, **most, **({"burst": True} if attempt.burst else {})}


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, Failure):
        return value.model_dump(mode="json", exclude_none=True)
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    return value


def _told(change: Change) -> str:
    on = f" on {change['route']}" if "route" in change else ""
    why = f": {change['error'].code}" if "error" in change else ""
    return f"{change['step']}#{change['attempt']} {change['phase'].value}{on}{why}"


def _request_lines(made: Entry) -> Entry:
    """A request in one line, but for a conversation, which is read line by line."""
    if "messages" not in made:
        return _Line(made)
    return {name: _Line(value) if name == "output_schema" else value for name, value in made.items()}


class _Dumper(yaml.SafeDumper):
    """Rows in one line each, texts of several lines as they are."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  # the base class's signature
        return True


class _Line(dict[str, Any]):
    """A mapping that is written in one line."""


def _as_line(dumper: yaml.SafeDumper, value: _Line) -> yaml.Node:
    return dumper.represent_mapping("tag:yaml.org,2002:map", value, flow_style=True)


def _as_text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style_of(value))


_Dumper.add_representer(_Line, _as_line)
_Dumper.add_representer(str, _as_text)


def written(head: str, body: dict[str, Any]) -> str:
    """A history as YAML: `body` with its `history`, under a comment."""
    entries = []
    for each in body["history"]:
        made = dict(each)
        if "rows" in made:
            made["rows"] = {path: _Line(row) for path, row in made["rows"].items()}
        if "asks" in made:
            made["asks"] = [_request_lines(asked) for asked in made["asks"]]
        for name in ("error", "used", "ended"):
            if name in made:
                made[name] = _Line(made[name])
        entries.append(made)
    comment = "".join(f"# {line}".rstrip() + "\n" for line in head.splitlines())
    return comment + yaml.dump(
        {**body, "history": entries}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_WIDTH
    )
