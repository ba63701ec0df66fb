"""Owns a definition as a drawing: a tree of what is inside what, and the same as a Mermaid flowchart."""

from dataclasses import dataclass
from typing import Any, Final, Literal

from penstock.workflow.definition import (
    BLOCK_KINDS,
    Block,
    Chain,
    Definition,
    Map,
    Parallel,
    RouteBlock,
    Sections,
    children,
)
from penstock.workflow.gates import Gate, Sleep, Until
from penstock.workflow.joins import Quorum, Vote
from penstock.workflow.loops import Agent, Plan, Refine
from penstock.workflow.parts import EmbedStep, ModelStep, RunStep, TaskStep, ToolStep
from penstock.workflow.tiers import routes_of

Flow = Literal["step", "sequence", "choice", "side_by_side", "loop"]
"""How what is inside a block goes: not at all, in order, one of it, all at once, again and again."""

EXPRESSION_CHARACTERS_MAX: Final = 60


@dataclass(frozen=True, slots=True)
class Drawn:
    """One block: what it is in a few words, and what is inside it, each part under its label."""

    id: str
    kind: str
    detail: str
    flow: Flow = "step"
    inside: tuple[tuple[str, "Drawn"], ...] = ()
    complete: bool = True
    """Of a choice: whether one of its ways is always taken."""

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        body: dict[str, Any] = {"id": self.id, "kind": self.kind, "detail": self.detail, "flow": self.flow}
        if self.inside:
            body["inside"] = [{"label": label, **part.plain()} for label, part in self.inside]
        return body


def drawn(definition: Definition) -> Drawn:
    """A definition's blocks."""
    return _drawn(definition.do, definition)


def _drawn(block: Block, definition: Definition) -> Drawn:
    kind = kind_of(block)

    def within(*blocks: Block) -> tuple[tuple[str, Drawn], ...]:
        return tuple(("", _drawn(each, definition)) for each in blocks)

    match block:
        case Chain():
            return Drawn(block.id, kind, "", "sequence", within(*block.chain))
        case RouteBlock():
            return _choice(block, definition)
        case Parallel(parallel=Sections() as inner):
            return Drawn(block.id, kind, f"sections, {_join(inner)}", "side_by_side", within(*inner.sections))
        case Parallel(parallel=Map() as inner):
            count = f"map over {_short(inner.map)}: {inner.items_max} at most, {inner.max_concurrency} at once"
            return Drawn(block.id, kind, f"{count}, {_join(inner)}", "loop", within(inner.do))
        case Parallel(parallel=Vote() as inner):
            by = "" if inner.vote.by is None else f" by {_short(inner.vote.by)}"
            detail = f"vote of {inner.vote.votes}{by}, {inner.vote.needed} must agree"
            return Drawn(block.id, kind, detail, "loop", within(inner.vote.do))
        case Refine() | Agent() | Plan():
            return _loop(block, definition)
        case Gate() | Sleep():
            return Drawn(block.id, kind, _asks_nobody(block))
        case ModelStep():
            places = _places(block.model, definition)
            return Drawn(block.id, kind, f"{block.model}: {places}, {block.max_tokens} tokens at most")
        case EmbedStep():
            return Drawn(block.id, kind, f"{block.embed}: {_places(block.embed, definition)}")
        case ToolStep() | TaskStep() | RunStep():
            return Drawn(block.id, kind, _called(block))
        case _:  # a kind that has no drawing of its own is drawn with what is inside it
            parts = children(block)
            return Drawn(block.id, kind, "", "loop" if parts else "step", within(*parts))


def _places(tier: str, definition: Definition) -> str:
    routes = routes_of(definition.tiers.get(tier, ()))
    return " or ".join(f"{route.pool}/{route.model}" for route in routes)


def _called(step: ToolStep | TaskStep | RunStep) -> str:
    match step:
        case ToolStep():
            return step.tool + ("" if step.idempotent else ", not idempotent")
        case TaskStep():
            return step.task + ("" if step.queue == "default" else f" on {step.queue}")
        case RunStep():
            return step.run + ("" if step.wait else ", not waited for")


def _asks_nobody(block: Gate | Sleep) -> str:
    if isinstance(block, Gate):
        return _short(block.check)
    match block.sleep:
        case Until(until=time):
            return f"until {_short(time)}"
        case str() as seconds:
            return f"{_short(seconds)} s"
        case seconds:
            return f"{seconds:g} s"


def _loop(block: Refine | Agent | Plan, definition: Definition) -> Drawn:
    kind = kind_of(block)
    match block:
        case Refine(refine=refined):
            judge = "evaluate" if refined.score is None else f"score {_short(refined.score)}"
            detail = f"{refined.rounds_max} rounds at most, until {judge} >= {refined.bar:g}"
            inside = [("", _drawn(child, definition)) for child in children(block)]
            return Drawn(block.id, kind, detail, "loop", tuple(inside))
        case Plan(plan=planner):
            detail = f"{planner.model} plans {planner.tasks_max} sub-tasks at most, in {planner.rounds_max} rounds"
            parts = [("each", block.do), *([] if block.join is None else [("then", block.join)])]
            return Drawn(block.id, kind, detail, "loop", tuple((how, _drawn(each, definition)) for how, each in parts))
        case Agent(agent=loop):
            tools = _short(", ".join(grant.name for grant in loop.tools))
            detail = f"{loop.model} with {tools}: {loop.turns_max} turns, {loop.tool_calls_max} calls at most"
            return Drawn(block.id, kind, detail)


def _choice(block: RouteBlock, definition: Definition) -> Drawn:
    ways = [
        (case.case if case.when is None else f"{case.case}: {_short(case.when)}", _drawn(case.do, definition))
        for case in block.route
    ]
    if block.otherwise is not None:
        ways.append(("otherwise", _drawn(block.otherwise, definition)))
    detail, complete = "", block.otherwise is not None
    if block.classify is not None:
        asked = " then ".join(tier for tier in (block.classify.model, block.classify.escalate) if tier is not None)
        detail, complete = f"chosen by {asked}", True
        if block.classify.min_confidence:
            detail += f", {block.classify.min_confidence:g} sure at least"
    return Drawn(block.id, kind_of(block), detail, "choice", tuple(ways), complete=complete)


def kind_of(block: Block) -> str:
    """The field that only this kind of block has."""
    return next(kind for kind in BLOCK_KINDS if kind in type(block).model_fields)


def mermaid(definition: Definition) -> str:
    """The flowchart as Mermaid reads it, from its start to its end."""
    flowchart = _Flowchart()
    entry, exits = flowchart.add(drawn(definition), 1)
    flowchart.edge("start", entry)
    for each in exits:
        flowchart.edge(each, "finish")
    return "\n".join(["flowchart TD", "  start([input])", *flowchart.lines, "  finish([output])", *flowchart.edges, ""])


class _Flowchart:
    """Nodes and edges. Ids begin with `s_`, because Mermaid has words of its own, as `end`."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.edges: list[str] = []

    def add(self, part: Drawn, depth: int) -> tuple[str, list[str]]:
        """Draws a block; answers with where it begins and where it ends."""
        name, indent = f"s_{part.id}", "  " * depth
        match part.flow:
            case "step":
                self.lines.append(f'{indent}{name}["{_label(part)}"]')
                return name, [name]
            case "sequence":
                return self._sequence(part, depth)
            case "choice":
                self.lines.append(f'{indent}{name}{{"{_label(part)}"}}')
                ends = self._branches(part, name, depth)
                return name, ends if part.complete else [*ends, name]
            case "side_by_side":
                self.lines.append(f'{indent}{name}[/"{_label(part)}"\\]')
                joined = f"{name}_joined"
                for end in self._branches(part, name, depth):
                    self.edge(end, joined)
                self.lines.append(f'{indent}{joined}[\\"{_escaped(part.id)}: joined"/]')
                return name, [joined]
            case "loop":
                self.lines.append(f'{indent}subgraph {name}["{_label(part)}"]')
                for _, inner in part.inside:
                    self.add(inner, depth + 1)
                self.lines.append(f"{indent}end")
                return name, [name]

    def edge(self, one: str, other: str, label: str = "") -> None:
        """An arrow."""
        self.edges.append(f"  {one} -->{f'|{_escaped(label)}|' if label else ''} {other}")

    def _sequence(self, part: Drawn, depth: int) -> tuple[str, list[str]]:
        first: str | None = None
        ends: list[str] = []
        for _, inner in part.inside:
            entry, exits = self.add(inner, depth)
            for end in ends:
                self.edge(end, entry)
            first, ends = first or entry, exits
        return first or f"s_{part.id}", ends

    def _branches(self, part: Drawn, name: str, depth: int) -> list[str]:
        ends: list[str] = []
        for label, inner in part.inside:
            entry, exits = self.add(inner, depth)
            self.edge(name, entry, label)
            ends.extend(exits)
        return ends


def _label(part: Drawn) -> str:
    text = f"{part.id}: {part.kind}" + (f" {part.detail}" if part.detail else "")
    return _escaped(text)


def _escaped(text: str) -> str:
    """Text that means nothing to Mermaid or HTML: entities are written with `#`."""
    for character, name in (
        ("#", "#35;"),
        ("&", "#amp;"),
        ('"', "#quot;"),
        ("<", "#lt;"),
        (">", "#gt;"),
        ("|", "#124;"),
    ):
        text = text.replace(character, name)
    return " ".join(text.split())


def _join(inner: Sections | Map) -> str:
    return f"quorum of {inner.join.quorum}" if isinstance(inner.join, Quorum) else inner.join.replace("_", " ")


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= EXPRESSION_CHARACTERS_MAX else text[: EXPRESSION_CHARACTERS_MAX - 1] + "…"
