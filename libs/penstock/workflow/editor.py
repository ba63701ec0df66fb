"""Owns the JSON Schema of definitions, for editors: what stands where, in words. `make schemas` writes it.

The schema knows structure; what it cannot know (names, types, what follows from what) `penstock check` does.
"""

import argparse
import ast
import inspect
import json
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from penstock.workflow.definition import Definition
from penstock.workflow.included import TEMPLATE_FIELDS
from penstock.workflow.parts import Part

ROOT: Final = Path(__file__).parents[3]
FILE: Final = Path("schemas/workflow.schema.json")

_FIELDS: Final = {
    "id": "The block's name: what later blocks call its output, and its part of the steps' paths.",
    "do": "The block that is run.",
    "name": "What the workflow is called.",
    "version": "Left out, it is the first twelve hex digits of the content's SHA-256.",
    "description": "What it is for, in words.",
    "when": "An expression: the first case whose `when` holds is taken.",
    "case": "The case's name, unique within its route.",
    "otherwise": "The block that is run where no case holds.",
    "route": "The cases, in the order in which they are looked at.",
    "chain": "The blocks, in order; each sees the outputs of those before it.",
    "output": "JSON with templates: the block's output. Left out, it is that of the last block.",
    "parallel": "Branches side by side: `sections`, a `map` or a `vote`.",
    "sections": "Blocks that run side by side.",
    "map": "An expression that gives a list: the block is run for each item, as `item` and `index`.",
    "vote": "The same block several times, and the answer that enough of them give.",
    "max_concurrency": "Branches that are open at once.",
    "items_max": "Items that the list may have; with more the block fails.",
    "join": "When the block is over, and what a branch that failed means for it.",
    "prompt": "What the model is asked, a template.",
    "system": "What the model is told before it is asked, a template.",
    "user": "What is said to the model, a template.",
    "assistant": "What it answers, a template.",
    "model": "The tier whose routes are tried in order; in a route, the model's name in its pool.",
    "tool": "An MCP tool, `server.tool`.",
    "task": "A Python function registered with @task, by its name.",
    "arguments": "JSON with templates: the tool's arguments.",
    "input": "For a workflow the JSON Schema of its input; for a step JSON with templates.",
    "queue": "The queue whose workers run the task.",
    "output_schema": "A JSON Schema: the output must fit it, and later blocks rely on it.",
    "input_schema": "A JSON Schema: what the model may give.",
    "arguments_schema": "A JSON Schema: what the model may give.",
    "idempotent": "Whether the tool may be called again where nobody knows whether it was.",
    "max_tokens": "Tokens of an answer at most.",
    "temperature": "0 takes the likeliest token.",
    "sampling": "How tokens are drawn, beside the temperature.",
    "seed": "For engines that sample reproducibly.",
    "stream": "Whether the answer can be watched while it comes.",
    "retry": "How often, and after what, a failed attempt is made again.",
    "attempts": "Attempts at most, over all routes.",
    "initial_ms": "The longest wait before the second attempt, in milliseconds.",
    "max_ms": "The longest wait before any attempt, in milliseconds.",
    "on": "The failures that are tried again; any other ends the step.",
    "timeout_seconds": "Per attempt.",
    "check": "An expression that must hold.",
    "message": "What the failure says, a template.",
    "refine": "How candidates are made and judged.",
    "rounds_max": "Rounds at most.",
    "agent": "The model, its tools, and what stops it.",
    "classify": "A model chooses the case.",
    "tools": "What the model may call, and nothing else.",
    "turns_max": "Turns of the model at most.",
    "policy": "How the conversation is kept within its bounds.",
    "context": "How much of the conversation the model sees.",
    "tiers": "Where model calls can go, by the names that model steps use.",
    "routes": "Where calls go, in the order in which they are tried.",
    "pool": "The pool of engines.",
    "breaker": "When a route is left alone for a while.",
    "burst": "When calls go on to the next route because engines are behind.",
    "leave_share": "The share of the threshold below which calls stay again.",
    "budget": "What one run may spend.",
    "deadline_seconds": "When a run that is not over fails.",
    "model_calls": "Model calls at most.",
    "tokens": "Input and output tokens at most.",
    "cost": "Money at most.",
    "amount": "A decimal number, as text.",
    "currency": "ISO 4217, such as USD.",
    "input_per_million": "The price of a million input tokens, a decimal number as text.",
    "output_per_million": "The price of a million output tokens, a decimal number as text.",
    "error_rate": "The share of failed calls from which the breaker opens.",
    "slow_call_rate": "The share of slow calls from which the breaker opens.",
    "window_calls": "The last calls that are looked at.",
    "open_seconds": "How long an open breaker leaves the route alone.",
    "probes": "Calls that must go well before it closes.",
    "quorum": "The branches that must succeed; the others are then cancelled.",
    "votes": "How often the block is run.",
    "agree": "Ballots that must say the same; left out, more than half of them.",
    "run": "Another workflow, `name` (its newest version) or `name@version`.",
    "wait": "Whether the step ends with the run that it starts, or at once.",
    "labels": "For attribution, with templates.",
    "sleep": "Seconds, a template that gives them, or `{until: …}`.",
    "sleep_seconds_max": "The longest sleep that is allowed.",
    "until": "A template that gives a time, RFC 3339.",
    "undo": "A tool or task step that is run where the run fails after this step; it also sees `output`.",
    "plan": "Who plans, and within which bounds.",
    "task_schema": "A JSON Schema: what one sub-task is.",
    "tasks_max": "Sub-tasks at most, over all rounds.",
    "caps": "What all model calls of the block may spend together.",
    "by": "An expression over `output`: what of a ballot is compared.",
}
"""What fields are for that have no docstring of their own, by their names."""


class UndescribedError(LookupError):
    """A field of a definition that has neither a docstring nor a word here."""


def schema() -> dict[str, Any]:
    """The JSON Schema of a definition as its author writes it. Raises UndescribedError."""
    made = Definition.model_json_schema(mode="validation")
    models = {model.__name__: model for model in every_part()}
    for name, definition in (("Definition", made), *made["$defs"].items()):
        if "properties" in definition:
            _describe(models[name], definition)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Penstock workflow",
        **{key: value for key, value in made.items() if key != "title"},
    }


def content() -> str:
    """The file's content."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the schema, or check that the file is up to date."""
    parser = argparse.ArgumentParser(prog="python -m penstock.workflow.editor", description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the file is not up to date")
    options = parser.parse_args(arguments)
    at = ROOT / FILE
    if not options.check:
        at.write_text(content())
        return 0
    if at.exists() and at.read_text() == content():
        return 0
    sys.stderr.write(f"{FILE}: stale\nBring it up to date with: make schemas\n")
    return 1


def _describe(model: type[Part], definition: dict[str, Any]) -> None:
    if "description" in definition:
        definition["description"] = inspect.cleandoc(definition["description"])
    for name, field in definition["properties"].items():
        field.pop("title", None)
        said = next((told[name] for each in model.__mro__ if name in (told := _told(each))), _FIELDS.get(name))
        if said is None:
            raise UndescribedError(f"{model.__name__}.{name} needs a docstring: editors show it to authors")
        field["description"] = said
        if name in TEMPLATE_FIELDS:
            definition["properties"][name] = _or_file(field)


def _or_file(field: dict[str, Any]) -> dict[str, Any]:
    """A template, or the file that it is in."""
    apart: dict[str, Any] = {key: field.pop(key) for key in ("description", "default") if key in field}
    branches = field.get("anyOf", [field])
    file = {
        "type": "object",
        "properties": {"file": {"type": "string", "description": "A file in the definition's folder or below."}},
        "required": ["file"],
        "additionalProperties": False,
    }
    return {"anyOf": [*branches, file], **apart}


_PACKAGE: Final = f"{__package__}."


def every_part(model: type[Part] = Part) -> Iterator[type[Part]]:
    """The classes of all parts of a definition; somebody else's subclasses are none."""
    for each in model.__subclasses__():
        if each.__module__.startswith(_PACKAGE):
            yield each
        yield from every_part(each)


def _told(model: type) -> dict[str, str]:
    """The docstrings of a class's own fields."""
    module = inspect.getmodule(model)
    return {} if module is None or not issubclass(model, Part) else _docstrings(module).get(model.__name__, {})


@cache
def _docstrings(module: ModuleType) -> dict[str, dict[str, str]]:
    """The docstrings of the fields of a module's classes."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for field, after in zip(node.body, node.body[1:], strict=False):
            match field, after:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str() as said)):
                    found.setdefault(node.name, {})[name] = inspect.cleandoc(said)
                case _:
                    pass
    return found


if __name__ == "__main__":
    sys.exit(main())
