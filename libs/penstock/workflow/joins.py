"""Owns how parallel branches become one output: all of them, as many as there are, enough of them, or a vote."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from penstock.workflow.parts import Expression, Part

if TYPE_CHECKING:
    from penstock.workflow.definition import Block

Concurrency = Annotated[int, Field(ge=1, le=1024)]
VOTES_MAX = 101


class Quorum(Part):
    """The block is over when this many branches succeeded; the others are cancelled, with null in their place.

    It fails with `quorum_missed` as soon as so many failed that this cannot be reached any more.
    """

    quorum: Annotated[int, Field(ge=1, le=100_000)]


def _kind_of_join(value: Any) -> str | None:
    if isinstance(value, str):
        return "word" if value in ("all", "best_effort") else None
    return "quorum" if isinstance(value, dict | Quorum) else None


Join = Annotated[
    Annotated[Literal["all", "best_effort"], Tag("word")] | Annotated[Quorum, Tag("quorum")],
    Discriminator(
        _kind_of_join,
        custom_error_type="join_kind",
        custom_error_message="a join is `all`, `best_effort` or `{quorum: n}`",
    ),
]


class Election(Part):
    """The same block several times, each with its `index`; equal outputs are ballots for the same."""

    do: "Block"
    votes: Annotated[int, Field(ge=2, le=VOTES_MAX)] = 3
    agree: Annotated[int, Field(ge=1, le=VOTES_MAX)] | None = None
    """Equal ballots that decide; left out, more than half of `votes`."""
    by: Expression | None = None
    """What is compared, over `output`; left out, the whole output, as JSON."""
    max_concurrency: Concurrency = 16

    @property
    def needed(self) -> int:
        """Equal ballots that decide."""
        return self.agree if self.agree is not None else self.votes // 2 + 1


class Vote(Part):
    """A vote. The output: {winner: an output that won, agree: its ballots, ballots: what each branch voted for}.

    Over as soon as enough ballots agree, the others are cancelled; fails with `no_majority` as soon as none can have
    enough. A branch that fails or is cancelled is a ballot for nobody: null.
    """

    vote: Election
