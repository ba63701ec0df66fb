"""Owns the shapes of the blocks that go round: `refine`.

A loop's names (`round`, `candidate`, `critique`) stand for something only in what its field says it sees.
"""

from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import Field

from penstock.workflow.parts import Expression, Identifier, Part, Template

if TYPE_CHECKING:
    from penstock.workflow.definition import Block

LOOP_NAMES: Final = {"round": "a refine", "candidate": "a refine", "critique": "the `generate` of a refine"}
"""What only loops put in scope, and where; a step may be called so elsewhere."""


class RefineLoop(Part):
    """How candidates are made and judged. Exactly one of `evaluate` and `score` is given."""

    generate: "Block"
    """Sees `round` (from 0), `candidate` and `critique`: the one before and what was said about it, null at first."""
    evaluate: "Block | None" = None
    """Sees `round` and `candidate`; its output is an object with a number `score` and, where it likes, a `critique`."""
    score: Expression | None = None
    """A number, over `candidate` and `round`."""
    critique: Template | None = None
    """What goes with `score`: text, or the value itself where it is nothing but one `{{ expression }}`."""
    bar: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    """A candidate with at least this score is good enough."""
    rounds_max: Annotated[int, Field(ge=1, le=1_000)] = 3
    patience: Annotated[int, Field(ge=1, le=1_000)] | None = None
    """Rounds without a better score after which the loop gives up; null: as many as `rounds_max`."""
    on_cap: Literal["best", "fail"] = "best"
    """Whether the best candidate is taken where none reached the bar, or the block fails with `refine_cap`."""


class Refine(Part):
    """Generates, judges, and generates again with the critique. The output: {candidate, score, rounds, stopped}."""

    id: Identifier
    refine: RefineLoop
