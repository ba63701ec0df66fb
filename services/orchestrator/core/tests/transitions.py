"""Owns the table of transitions: what each event may make of a step of each kind in each phase, or why there is none.

Every event that a test of the core tells a run is held against it; test_every_transition.py has an example of each.
"""

from collections.abc import Mapping
from typing import Final, get_args

from penstock.contracts.messages import StepPhase
from services.orchestrator.core.decide import Event
from services.orchestrator.core.state import Run, StepKind

W, R, C, F, X = StepPhase.WAITING, StepPhase.RETRYING, StepPhase.COMPLETED, StepPhase.FAILED, StepPhase.CANCELLED

Afters = Mapping[StepPhase, Mapping[str, frozenset[StepPhase]] | str]
"""For each phase the phases that each event may lead to, or why no step of the kind is ever in it."""


def _moves(
    answered: set[StepPhase], rung: set[StepPhase], cancelled: set[StepPhase], redriven: set[StepPhase]
) -> Mapping[str, frozenset[StepPhase]]:
    """An executor's answer and a child's end may be another step's: they reach this one through its block."""
    return {
        "Outcome": frozenset(answered),
        "ChildEnded": frozenset(answered),
        "AlarmDue": frozenset(rung),
        "Cancelled": frozenset(cancelled),
        "Redriven": frozenset(redriven),
    }


ASKING: Final[Afters] = {
    # Answered: over, or tried again now or later; or its block ended without it. Rung: its time was over, or its run's.
    W: _moves({W, R, C, F, X}, {W, R, F, X}, {X}, {W}),
    # Nobody's answer is awaited, so it is not this one's that moves it.
    R: _moves({R, X}, {W, R, C, F, X}, {X}, {R}),
    # A result stays; only where it was undone does a redrive begin it again.
    C: _moves({C}, {C}, {C}, {C, X, W, R, F}),
    F: _moves({F}, {F}, {F}, {F, X, W, R, C}),
    # After a redrive a cancelled branch begins again as soon as there is room for it, whatever made the room.
    X: _moves({X, R}, {X, W, R, C, F}, {X}, {X, W, R, C, F}),
}
UNDOING: Final[Afters] = {
    # A cancel changes nothing: what it would lead to is under way.
    **ASKING,
    W: _moves({W, R, C, F, X}, {W, R, F, X}, {W}, {W}),
    R: _moves({R, X}, {W, R, C, F, X}, {R}, {R}),
    # Forgotten by a redrive; what ends the run again, be it a cancel, asks for it again.
    X: _moves({X, R}, {X, W, R, C, F}, {X, R}, {X, W, R, C, F}),
}
SLEEPING: Final[Afters] = {
    W: _moves({W, X}, {W, C, X}, {X}, {W}),
    R: "nobody is asked, so there is nothing to try again",
    C: _moves({C}, {C}, {C}, {C}),
    F: _moves({F}, {F}, {F}, {F, X, W, C}),
    X: _moves({X, W, C, F}, {X, W, C, F}, {X}, {X, W, C, F}),
}
DECIDED: Final[Afters] = {
    W: "it is decided by the event that brings it about, and awaits nothing",
    R: "what was decided is not tried again but by a redrive, at once",
    C: _moves({C}, {C}, {C}, {C}),
    F: _moves({F}, {F}, {F}, {F, X, C}),
    # Nobody cancels it: a redrive after undoing has what failed the run begin again once the steps before it did.
    X: _moves({X, C, F}, {X, C, F}, {X}, {X, C, F}),
}

TABLE: Final[Mapping[StepKind, Afters]] = {
    "model": ASKING,
    "tool": ASKING,
    "task": ASKING,
    "run": ASKING,
    "undo": UNDOING,
    "sleep": SLEEPING,
    "route": DECIDED,
    "map": DECIDED,
    "check": DECIDED,
    "refine": DECIDED,
    "agent": DECIDED,
    "vote": DECIDED,
}

EVERY: Final[list[tuple[StepKind, StepPhase, str]]] = [
    (kind, phase, event.__name__) for kind in get_args(StepKind) for phase in StepPhase for event in get_args(Event)
]


def phases(run: Run) -> dict[str, StepPhase]:
    """The phase of each step, by path."""
    return {path: step.phase for path, step in run.steps.items()}


def check_transitions(before: Mapping[str, StepPhase], event: Event, run: Run) -> None:
    """Guard: an event makes of every step what the table allows, and no step is in a phase that it rules out."""
    for path, step in run.steps.items():
        after = TABLE[step.kind][step.phase]
        assert not isinstance(after, str), (path, step.kind, step.phase, after)
        if path in before:
            allowed = TABLE[step.kind][before[path]]
            assert not isinstance(allowed, str)
            assert step.phase in allowed[type(event).__name__], (path, step.kind, before[path], event, step.phase)
