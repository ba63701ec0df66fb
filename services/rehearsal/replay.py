"""Owns recorded histories: how one is written, and how the core is told its events again and has to decide the same."""

import copy
import difflib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import orjson
import yaml

from penstock.contracts.ids import DEFAULT_TENANT
from penstock.contracts.messages import RunRequested
from penstock.workflow.definition import Definition
from penstock.workflow.notation import values
from services.orchestrator.core.decide import decide
from services.orchestrator.core.facts import NO_FACTS
from services.orchestrator.core.program import compile_definition
from services.orchestrator.core.state import Decision, Request, Run
from services.rehearsal import circumstances, history
from services.rehearsal.circumstances import Circumstances, facts_of
from services.rehearsal.reading import SUFFIX, plain
from services.rehearsal.rehearsal import UNVERSIONED, Happened, begin

NAME_CHARACTERS_MAX: Final = 80


def recorded(definition: Definition, happened: Happened, name: str) -> str:
    """A history as YAML, with the definition it belongs to: all that a replay needs."""
    head = f"{name}\nWritten by `penstock test --record`; each entry is an event, `at` the time since the first."
    body = {"began_at_ms": happened.began_ms, "workflow": plain(definition)}
    if happened.circumstances is not None:
        body["circumstances"] = circumstances.plain(happened.circumstances)
    body["history"] = happened.entries
    return history.written(head, body)


def recorded_name(file: Path, case: str) -> str:
    """What the file of a case's history is called."""
    words = re.sub(r"[^a-z0-9]+", "_", case.lower()).strip("_")
    return f"{file.name.removesuffix(SUFFIX)}-{words[:NAME_CHARACTERS_MAX]}.yaml"


def deviations(text: str) -> list[str]:
    """What the core decides otherwise than a recorded history says, as a diff of the first such event; else nothing.

    Each event is told twice, the second time to a run that is restored from its rows: both have to say the same.
    """
    body, _ = values(text)
    definition = Definition.model_validate(body["workflow"])
    program = compile_definition(definition, definition.version or UNVERSIONED)
    began_ms, facts = body["began_at_ms"], NO_FACTS
    asked: dict[tuple[str, int], Request] = {}
    decision: Decision | None = None
    for number, made in enumerate(body["history"]):
        if decision is None:
            request = RunRequested.model_validate(made["requested"])
            if "circumstances" in body:
                around = Circumstances.model_validate(body["circumstances"])
                facts = facts_of(around, request.tenant or DEFAULT_TENANT)
            decision = begin(request, program, began_ms, facts)
            told = [history.entry(began_ms, history.of_request(request), decision, began_ms)]
        else:
            event = history.event_from(made, asked, began_ms)
            before = stored(decision.run)
            decision = decide(decision.run, program, event, facts)
            name = history.of_event(event)
            told = [
                history.entry(event.at_ms, name, each, began_ms)
                for each in (decision, decide(before, program, event, facts))
            ]
        for restored, now in enumerate(told):
            if _json(now) != _json(made):
                return _difference(number, made, now, restored=bool(restored))
        asked |= {(request.step, request.attempt): request for request in decision.requests}
    return []


def stored(run: Run) -> Run:
    """The run as it comes back from its rows: nothing derived, every value through JSON, rows in another order."""
    again = copy.deepcopy(replace(run, live=None, steps={}))
    again.input = orjson.loads(orjson.dumps(run.input))
    again.output = orjson.loads(orjson.dumps(run.output))
    for path, step in sorted(run.steps.items(), reverse=True):
        again.steps[path] = replace(step, output=orjson.loads(orjson.dumps(step.output)))
    return again


def _json(value: Any) -> Any:
    return orjson.loads(orjson.dumps(value, option=orjson.OPT_SORT_KEYS))


def _difference(number: int, made: history.Entry, now: history.Entry, *, restored: bool) -> list[str]:
    who = "a run restored from its rows" if restored else "the core"
    before, after = (yaml.safe_dump(_json(each), sort_keys=False, width=120).splitlines() for each in (made, now))
    return [
        f"event {number} at {made['at']}: {who} decides otherwise",
        *difflib.unified_diff(before, after, "recorded", "decided", lineterm="", n=100),
    ]
