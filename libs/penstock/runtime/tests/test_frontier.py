"""The commit frontier: never beyond an unfinished record, whatever the order and the gaps."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from penstock.runtime.kafka.frontier import Frontier


@given(st.lists(st.integers(0, 200), unique=True, min_size=1).map(sorted), st.randoms())
def test_never_beyond_an_unfinished_record(offsets: list[int], random: Random) -> None:
    """Given records with gaps that finish in any order, then the position is the lowest open one or behind the last."""
    frontier = Frontier()
    for offset in offsets:
        frontier.begin(offset)
    open_ones = set(offsets)
    for offset in random.sample(offsets, len(offsets)):
        frontier.finish(offset)
        open_ones.discard(offset)
        assert frontier.position == (min(open_ones) if open_ones else offsets[-1] + 1)
    assert frontier.open_count == 0


def test_only_what_moved_is_committed() -> None:
    """Given a committed position, when nothing moved, then there is nothing to commit."""
    frontier = Frontier()
    seen = [frontier.uncommitted]
    frontier.begin(4)
    frontier.finish(4)
    seen.append(frontier.uncommitted)
    frontier.committed = 5
    seen.append(frontier.uncommitted)

    assert seen == [None, 5, None]
