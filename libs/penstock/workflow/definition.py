"""Owns the shape of a workflow definition: a tree of blocks, data only, immutable once published.

A block's kind is the field that only it has, one of BLOCK_KINDS.
Strings in `input`, `arguments`, `output`, `prompt` and `system` are MiniJinja templates over the scope (`input`, the
ids of steps that ended before, `item` and `index` inside a map, `run`); a string that is nothing but one
`{{ expression }}` stands for the value itself, not for its text. `when`, `map` and `check` are bare expressions.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Final

from pydantic import Discriminator, Field, StringConstraints, Tag

from penstock.workflow.classify import Classify, Description
from penstock.workflow.gates import Gate, Sleep
from penstock.workflow.joins import Concurrency, Election, Join, Vote
from penstock.workflow.loops import Agent, Plan, Refine, RefineLoop
from penstock.workflow.parts import (
    Caps,
    EmbedStep,
    Expression,
    Identifier,
    JsonSchema,
    ModelStep,
    Part,
    RunStep,
    TaskStep,
    ToolStep,
    Version,
    WorkflowName,
    field_of,
)
from penstock.workflow.tiers import AnyTier

SCOPE_NAMES: Final = frozenset({"input", "item", "index", "run"})
"""Names that the scope has of itself; no step may take one as its id."""


class Chain(Part):
    """Steps in order. The output is the last step's, or `output` where that is given."""

    id: Identifier
    chain: Annotated[list["Block"], Field(min_length=1, max_length=256)]
    output: Any = None


class Case(Part):
    """One way that a route can take. It has a `when`, or its route a `classify`."""

    case: Identifier
    when: Expression | None = None
    description: Description = ""
    do: "Block"


class RouteBlock(Part):
    """The first case whose `when` holds, else `otherwise`; the choice is recorded. The output is the chosen block's.

    With no case that holds and no `otherwise` the output is null. With `classify` a model chooses among the cases.
    """

    id: Identifier
    route: Annotated[list[Case], Field(min_length=1, max_length=64)]
    classify: Classify | None = None
    otherwise: "Block | None" = None


PARALLEL_KINDS: Final = ("sections", "map", "vote")


class Sections(Part):
    """Different blocks side by side. The output maps each section's id to its output."""

    sections: Annotated[list["Block"], Field(min_length=1, max_length=256)]
    max_concurrency: Concurrency = 16
    join: Join = "all"


class Map(Part):
    """The same block for each item of a list. The output is the list of outputs in the items' order."""

    map: Expression
    do: "Block"
    max_concurrency: Concurrency = 16
    items_max: Annotated[int, Field(ge=1, le=100_000)] = 1_000
    join: Join = "all"


class Parallel(Part):
    """Sections, a map or a vote. `join: best_effort` puts `{"error": {...}}` in the place of a branch that failed."""

    id: Identifier
    parallel: Annotated[
        Annotated[Sections, Tag("sections")] | Annotated[Map, Tag("map")] | Annotated[Vote, Tag("vote")],
        Discriminator(lambda value: field_of(value, PARALLEL_KINDS)),
    ]


BLOCK_KINDS: Final = (
    "chain",
    "route",
    "parallel",
    "plan",
    "refine",
    "agent",
    "check",
    "sleep",
    "model",
    "embed",
    "tool",
    "task",
    "run",
)

Block = Annotated[
    Annotated[Chain, Tag("chain")]
    | Annotated[RouteBlock, Tag("route")]
    | Annotated[Parallel, Tag("parallel")]
    | Annotated[Gate, Tag("check")]
    | Annotated[Sleep, Tag("sleep")]
    | Annotated[Plan, Tag("plan")]
    | Annotated[Refine, Tag("refine")]
    | Annotated[Agent, Tag("agent")]
    | Annotated[ModelStep, Tag("model")]
    | Annotated[EmbedStep, Tag("embed")]
    | Annotated[ToolStep, Tag("tool")]
    | Annotated[TaskStep, Tag("task")]
    | Annotated[RunStep, Tag("run")],
    Discriminator(
        lambda value: field_of(value, BLOCK_KINDS),
        custom_error_type="block_kind",
        custom_error_message="a block needs exactly one of: " + ", ".join(BLOCK_KINDS),
    ),
]


class Definition(Part):
    """A workflow: one root block, the tiers that its model steps name, and the schema of its input.

    `version` left out becomes the first twelve hex digits of the content's SHA-256 when it is published.
    """

    name: WorkflowName
    version: Version | None = None
    description: Annotated[str, StringConstraints(max_length=4096)] = ""
    input: JsonSchema = Field(default_factory=dict)
    tiers: dict[Identifier, AnyTier] = Field(default_factory=dict)
    budget: Caps | None = None
    """What one run may spend. A run's own budget can only lower it."""
    deadline_seconds: Annotated[float, Field(gt=0, le=31_536_000)] = 3_600.0
    steps_max: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Leaf attempts that one run may dispatch."""
    sources: Annotated[dict[str, str], Field(max_length=256)] = Field(default_factory=dict)
    """The files that texts were included from, with the hash of each: `sha256:…`. Written when a file is read."""
    undo_seconds: Annotated[float, Field(gt=0, le=31_536_000)] = 3_600.0
    """How long undoing may take, from the failure or the cancel on."""
    depth_max: Annotated[int, Field(ge=0, le=32)] = 8
    """How many runs may stand above a child run that this workflow asks for, this run among them."""
    do: Block


def children(block: "Block") -> list["Block"]:
    """The blocks directly inside a block, in the order in which they stand."""
    match block:
        case Chain():
            return block.chain
        case RouteBlock():
            otherwise = [] if block.otherwise is None else [block.otherwise]
            return [case.do for case in block.route] + otherwise
        case Parallel():
            inner = block.parallel
            match inner:
                case Sections():
                    return inner.sections
                case Map():
                    return [inner.do]
                case Vote():
                    return [inner.vote.do]
        case Plan():
            return [block.do] if block.join is None else [block.do, block.join]
        case Refine():
            loop = block.refine
            return [loop.generate] if loop.evaluate is None else [loop.generate, loop.evaluate]
        case Agent() | Gate() | Sleep() | ModelStep() | EmbedStep() | ToolStep() | TaskStep() | RunStep():
            return []


def every_block(block: "Block") -> Iterator["Block"]:
    """A block and all blocks inside it, in the order in which they stand."""
    yield block
    for child in children(block):
        yield from every_block(child)


def leaves(block: "Block") -> Iterator[ModelStep | EmbedStep | ToolStep | TaskStep | RunStep]:
    """All steps that do work elsewhere, undos and what an agent may call included, in the order in which they stand."""
    for each in every_block(block):
        match each:
            case ModelStep() | EmbedStep() | ToolStep() | TaskStep() | RunStep():
                yield each
                if each.undo is not None:
                    yield each.undo
            case Agent():
                yield from (grant.step() for grant in each.agent.tools)
            case _:
                pass


def tiers_named(block: "Block") -> Iterator[str]:
    """The tiers that the model calls of a block and of all blocks inside it name, in the order in which they stand."""
    for each in every_block(block):
        match each:
            case ModelStep():
                yield each.model
            case EmbedStep():
                yield each.embed
            case RouteBlock(classify=Classify() as classify):
                yield classify.model
                if classify.escalate is not None:
                    yield classify.escalate
            case Agent():
                yield each.agent.model
            case Plan():
                yield each.plan.model
            case _:
                pass


for _model in (Chain, Case, RouteBlock, Sections, Map, Election, Vote, Parallel, RefineLoop, Refine, Plan, Definition):
    _model.model_rebuild()
