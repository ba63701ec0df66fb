"""Owns random sound definitions and random values that fit a schema, for hypothesis.

Templates are drawn from what the checks know of the scope, so that a definition passes them by construction; what is
used is as odd as the checks let it be.
"""

from collections.abc import Iterator
from itertools import count
from typing import Any, Final

from hypothesis import strategies as st

from penstock.testkit.builders import a_definition
from penstock.workflow.checks import CHECKS, RUN
from penstock.workflow.checks.checker import Checker, Place, Scope
from penstock.workflow.definition import Definition
from penstock.workflow.faults import Origins
from penstock.workflow.flow import templates
from penstock.workflow.shapes import INTEGER, TEXT, Shape, alternatives, list_of, nullable, types_of

Json = dict[str, Any]

PATH_DEPTH_MAX: Final = 3
_FORMS: Final = (
    ("{0}",) * 12
    + ("{0} | default('d')", "{0} | default(none)", "{0} | default('d', true)", "{0} | tojson", "{0} ~ '!'", "[{0}]")
    + ("{0} if {0} is defined else ''", "{0} if {0} else 'none'", "'yes' if {0} is none else 'no'", "{0} | upper")
    + ("{0} | length", "{0} | first", "{0} + 1", "{0} | list", "{{'k': {0}}}.k", "{0}[:1]", "{0} == 'x'", "not {0}")
)
_CONDITIONS: Final = (
    "{0} is defined",
    "{0} is not none",
    "{0}",
    "not {0}",
    "{0} == 'x'",
    "{0} in ['x', 'y']",
    "{0} is string",
    "{0} is mapping",
    "{0} | length > 0",
    "{0} is defined and {1}",
    "{0} is none or {1}",
    "not ({0} and {1})",
)
_TEXTS: Final = (
    "{{{{ {0} }}}}",
    "Say {{{{ {0} }}}}.",
    "{{% if {1} %}}{{{{ {0} }}}}{{% else %}}no{{% endif %}}",
    "Begin.",
)
_LEAVES: Final[tuple[Json, ...]] = (
    {"type": "string"},
    {"type": "integer"},
    {"type": "boolean"},
    {"type": ["string", "null"]},
    {"enum": ["x", "y"]},
    {"type": "array", "items": {"type": "string"}},
    {"type": "array", "items": {"type": "integer"}, "minItems": 1},
)
_VERDICT: Final = {
    "type": "object",
    "properties": {"score": {"type": "number"}, "critique": {"type": "string"}},
    "required": ["score"],
}
PLAIN: Final = ("task", "task", "task", "task", "model", "embed", "tool", "run", "check", "sleep")
NESTED: Final = ("chain", "chain", "route", "route", "classify", "sections", "map", "vote", "refine", "plan", "agent")


@st.composite
def sound_definitions(draw: st.DrawFn) -> Definition:
    """A definition of nested blocks that has no faults; its input is an object."""
    given = draw(objects(2))
    scope = {"input": given, "run": RUN}
    body = draw(chains(scope, count(), 2))
    return a_definition(body, input=given)


@st.composite
def objects(draw: st.DrawFn, depth: int = 1) -> Json:
    """The schema of an object with some fields, not all of them required."""
    inner = st.sampled_from(_LEAVES) if depth == 0 else st.sampled_from(_LEAVES) | objects(depth - 1)
    fields = {name: draw(inner | inner.map(lambda one: {"anyOf": [one, {"type": "null"}]})) for name in ("a", "b")}
    required = draw(st.lists(st.sampled_from(["a", "b"]), unique=True))
    return {"type": "object", "properties": fields, "required": required, "additionalProperties": False}


@st.composite
def fitting(draw: st.DrawFn, schema: Shape) -> Any:
    """A value that fits a schema, as far as the checks understand it."""
    known = alternatives(schema)
    if not known:
        return draw(st.sampled_from([None, "x", 7]))
    one = draw(st.sampled_from(known))
    if "enum" in one:
        return draw(st.sampled_from(one["enum"]))
    match one["type"]:
        case "object":
            fields = {name: inner for name, inner in one.get("properties", {}).items() if isinstance(inner, dict)}
            kept = [name for name in fields if name in one.get("required", []) or draw(st.booleans())]
            defined = {"$defs": one["$defs"]} if "$defs" in one else {}
            return {name: draw(fitting({**defined, **fields[name]})) for name in kept}
        case "array":
            least = one.get("minItems", 0)
            size = draw(st.integers(least, min(least + 2, one.get("maxItems", least + 2))))
            return [draw(fitting(one.get("items") or None)) for _ in range(size)]
        case "string":
            texts = [text for text in ("x", "", "a b", "yes") if len(text) >= one.get("minLength", 0)]
            return draw(st.sampled_from(texts))
        case "boolean":
            return draw(st.booleans())
        case "null":
            return None
        case _:
            return draw(st.integers(int(one.get("minimum", -1)), int(one.get("maximum", 9))))


def paths(scope: Scope) -> list[str]:
    """What a template can name of a scope, as far as something is known about it."""
    own = [path for name, shape in scope.items() if name != "run" for path in _paths(name, shape, PATH_DEPTH_MAX)]
    return ["run.id", *own]


def _paths(at: str, shape: Shape, depth: int) -> Iterator[str]:
    if not types_of(shape):
        return
    yield at
    for one in alternatives(shape) or () if depth else ():
        if one["type"] == "object":
            for name, inner in one.get("properties", {}).items():
                if isinstance(inner, dict):
                    yield from _paths(f"{at}.{name}", {"$defs": one.get("$defs", {}), **inner}, depth - 1)
        elif one["type"] == "array" and isinstance(one.get("items"), dict):
            yield from _paths(f"{at}[0]", {"$defs": one.get("$defs", {}), **one["items"]}, depth - 1)


@st.composite
def expressions(
    draw: st.DrawFn, scope: Scope, forms: tuple[str, ...] = _FORMS, types: frozenset[str] | None = None
) -> str | None:
    """An expression without faults, of one of some types; None where none was found."""
    known = paths(scope)
    # What came last is used most: the output of the block before.
    names = st.sampled_from(known[-4:]) | st.sampled_from(known[-4:]) | st.sampled_from(known)
    for _ in range(6):
        source = draw(st.sampled_from(forms)).format(draw(names), draw(names))
        shape, troubles = templates.of_expression(source, scope)
        if not troubles and (types is None or (types_of(shape) and types_of(shape) <= types)):
            return source
    return None


@st.composite
def values(draw: st.DrawFn, scope: Scope) -> str:
    """A string that stands for a value."""
    return f"{{{{ {draw(expressions(scope)) or 'run.id'} }}}}"


@st.composite
def texts(draw: st.DrawFn, scope: Scope) -> str:
    """A template whose value is text."""
    for _ in range(3):
        condition = draw(expressions(scope, _CONDITIONS)) or "true"
        source = draw(st.sampled_from(_TEXTS)).format(draw(st.sampled_from(paths(scope))), condition)
        if not templates.of_text(source, scope):
            return source
    return "Begin."


def shape_of(block: Json, scope: Scope) -> Shape:
    """What the checks know of a block's output."""
    definition = a_definition(block)
    return Checker(definition, Origins({}, {}), CHECKS).block(definition.do, Place(("do",), scope))


@st.composite
def chains(draw: st.DrawFn, scope: Scope, number: Iterator[int], depth: int) -> Json:
    """Blocks in order, each drawn from what those before it are known to give."""
    step_id = f"b{next(number)}"
    inside: list[Json] = []
    for _ in range(draw(st.integers(2, 5))):
        inside.append(draw(blocks(scope, number, depth)))
        scope = {**scope, inside[-1]["id"]: shape_of(inside[-1], scope)}
        if "check" in inside[-1]:
            scope = _known(templates.after(inside[-1]["check"], scope, holds=True), scope)
    output = draw(st.sampled_from([None, {"first": draw(values(scope)), "second": [draw(values(scope))]}]))
    return {"id": step_id, "chain": inside, **({} if output is None else {"output": output})}


@st.composite
def blocks(draw: st.DrawFn, scope: Scope, number: Iterator[int], depth: int) -> Json:
    """A block of any kind."""
    kind = draw(st.sampled_from([*PLAIN, *(NESTED if depth else ())]))
    if kind == "chain":
        return draw(chains(scope, number, depth - 1))
    step_id = f"b{next(number)}"
    if kind in PLAIN:
        return {"id": step_id, **draw(plain(scope, kind))}
    return {"id": step_id, **draw(nested(scope, number, depth - 1, kind))}


@st.composite
def plain(draw: st.DrawFn, scope: Scope, kind: str) -> Json:
    """What a block says that has no blocks inside."""
    schema: Json = draw(st.sampled_from(_LEAVES) | objects() | objects())
    match kind:
        case "task":
            undo: Json = {"task": "tasks.undo", "input": {"of": draw(values({**scope, "output": schema}))}}
            undone: Json = {"undo": undo} if draw(st.booleans()) else {}
            return {"task": "tasks.work", "input": {"value": draw(values(scope))}, "output_schema": schema, **undone}
        case "tool":
            return {"tool": "files.read", "arguments": {"value": draw(values(scope))}, "output_schema": schema}
        case "run":
            waited = {"output_schema": schema} if draw(st.booleans()) else {"wait": False}
            return {"run": "other", "input": {"value": draw(values(scope))}, **waited}
        case "check":
            # Most gates hold, so that something comes after them.
            condition = draw(expressions(scope, _CONDITIONS)) or "true"
            return {"check": condition, "message": draw(texts(scope))}
        case "sleep":
            return {"sleep": draw(st.sampled_from([0, 1, "{{ 2 * 3 }}"]))}
        case "embed":
            said = f"Of {draw(texts(scope))}"
            return {"embed": "small", "input": draw(st.sampled_from([said, [said, "water"]]))}
        case _:
            guided = {"output_schema": schema} if draw(st.booleans()) else {}
            shown = [{"user": draw(texts(scope)), "assistant": "x"}] if draw(st.booleans()) else []
            return {"model": "small", "prompt": draw(texts(scope)), "examples": shown, **guided}


@st.composite
def nested(draw: st.DrawFn, scope: Scope, number: Iterator[int], depth: int, kind: str) -> Json:
    """What a block says that has blocks inside."""
    join = draw(st.sampled_from(["all", "best_effort", {"quorum": 1}]))
    match kind:
        case "route":
            return draw(routes(scope, number, depth))
        case "classify":
            ways = [{"case": f"c{n}", "do": draw(blocks(scope, number, depth))} for n in range(2)]
            return {"route": ways, "classify": {"model": "small", "prompt": draw(texts(scope))}}
        case "sections":
            inside = [draw(blocks(scope, number, depth)) for _ in range(draw(st.integers(1, 3)))]
            return {"parallel": {"sections": inside, "join": join}}
        case "map":
            over = draw(expressions(scope, ("{0}", "{0} | list"), frozenset({"array"}))) or "[1, 2]"
            items = templates.of_expression(over, scope)[0]
            item = (alternatives(items) or ({},))[0].get("items") or None
            branch = {**scope, "item": item, "index": INTEGER}
            join = join if isinstance(join, str) else "all"
            return {"parallel": {"map": over, "do": draw(blocks(branch, number, depth)), "join": join}}
        case "vote":
            inside = [draw(blocks({**scope, "index": INTEGER}, number, depth))]
            return {"parallel": {"vote": {"do": inside[0], "votes": 2, "agree": 1}}}
        case "refine":
            return draw(refines(scope, number))
        case "plan":
            return draw(plans(scope, number, depth))
        case _:
            schema = draw(st.sampled_from([None, *_LEAVES[:3]]))
            stop = draw(expressions({**scope, "answer": TEXT if schema is None else schema, "turn": INTEGER}))
            loop = {"model": "small", "prompt": draw(texts(scope)), "tools": [{"tool": "files.read"}, {"task": "a.b"}]}
            return {"agent": {**loop, "output_schema": schema, "stop": stop, "turns_max": 3}}


@st.composite
def routes(draw: st.DrawFn, scope: Scope, number: Iterator[int], depth: int) -> Json:
    """Cases whose blocks rely on what their `when` says."""
    ways = []
    for case in range(draw(st.integers(1, 3))):
        when = draw(expressions(scope, _CONDITIONS)) or "true"
        held = templates.after(when, scope, holds=True)
        ways.append({"case": f"c{case}", "when": when, "do": draw(blocks(_known(held, scope), number, depth))})
        scope = _known(templates.after(when, scope, holds=False), scope)
    otherwise = {"otherwise": draw(blocks(scope, number, depth))} if draw(st.booleans()) else {}
    return {"route": ways, **otherwise}


def _known(after: Scope, before: Scope) -> Scope:
    """The scope after a condition; where that place is never reached, the one before, so that something is known."""
    return after if any(types_of(shape) for shape in after.values()) else before


@st.composite
def refines(draw: st.DrawFn, scope: Scope, number: Iterator[int]) -> Json:
    """A loop whose generator uses the candidate before, which is null at first."""
    schema = draw(st.sampled_from([None, *_LEAVES[:3]]) | objects())
    candidate = TEXT if schema is None else schema
    before = {**scope, "round": INTEGER, "candidate": nullable(candidate)}
    judged = {**scope, "round": INTEGER, "candidate": candidate}
    generate = {"id": f"b{next(number)}", "model": "small", "prompt": draw(texts(before)), "output_schema": schema}
    judge = {"id": f"b{next(number)}", "task": "tasks.judge", "input": draw(values(judged)), "output_schema": _VERDICT}
    scored = {"score": "round", "critique": draw(texts(judged))}
    judging: Json = {"evaluate": judge} if draw(st.booleans()) else scored
    return {"refine": {"generate": generate, **judging, "rounds_max": 2}}


@st.composite
def plans(draw: st.DrawFn, scope: Scope, number: Iterator[int], depth: int) -> Json:
    """A planner whose sub-tasks have a schema, and perhaps a block that joins their results."""
    task = draw(st.sampled_from(_LEAVES[:2]) | objects(1))
    part = {**scope, "task": task, "index": INTEGER, "round": INTEGER}
    body = draw(blocks(part, number, depth))
    result: Json = {"type": "object", "properties": {"task": task, "output": shape_of(body, part) or {}}}
    results = list_of({**result, "required": ["task", "output"], "additionalProperties": False})
    join = {"join": draw(blocks({**scope, "results": results}, number, 0))} if draw(st.booleans()) else {}
    planner = {"model": "small", "prompt": draw(texts(scope)), "task_schema": task, "tasks_max": 3, "rounds_max": 2}
    return {"plan": planner, "do": body, **join}
