"""The memory of finished events: bounded by number and by bytes."""

from penstock.contracts.envelope import Outgoing
from penstock.runtime.kafka.recent import Recent


def output(size: int = 1) -> Outgoing:
    """An output of that many bytes."""
    return Outgoing("t", None, b"x" * size, [])


def test_the_oldest_is_forgotten_first() -> None:
    """Given room for two, when a third is remembered, then the first is gone."""
    recent = Recent(ids_max=2, bytes_max=10**9)
    for name in ("a", "b", "c"):
        recent.remember(name, [output()])

    assert recent.outputs("a") is None
    assert recent.outputs("c") is not None


def test_bytes_are_bounded_too() -> None:
    """Given outputs larger than the memory may be, when they are remembered, then the older ones go."""
    recent = Recent(ids_max=100, bytes_max=100_000)
    for name in ("a", "b", "a", "c"):
        recent.remember(name, [output(40_000)])

    assert [recent.outputs(name) is not None for name in ("a", "b", "c")] == [True, False, True]


def test_an_event_without_outputs_is_remembered_as_such() -> None:
    """Given a finished event that answered nothing, then that is known, and different from not known."""
    recent = Recent(ids_max=2, bytes_max=10**9)
    recent.remember("a", [])

    assert recent.outputs("a") == []
    assert recent.outputs("b") is None


def test_no_memory_at_all() -> None:
    """Given no room, then nothing is remembered."""
    recent = Recent(ids_max=0, bytes_max=10**9)
    recent.remember("a", [])

    assert recent.outputs("a") is None
