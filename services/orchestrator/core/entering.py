"""Owns how a run's blocks are entered: what is in scope at the root, and what is derived before that."""

from penstock.contracts.envelope import rfc3339
from services.orchestrator.core.compiler import Node
from services.orchestrator.core.frames import Answer, Enclosure, Live
from services.orchestrator.core.program import Program
from services.orchestrator.core.state import Run
from services.orchestrator.core.turn import Turn


def enter(turn: Turn, root: Node) -> Answer:
    """Enters the root block: begins the run, or finds where its rows say that it is."""
    run = turn.run
    turn.run.live = turn.live
    names = {
        "input": run.input,
        "run": {
            "id": run.run_id,
            "tenant": run.tenant,
            "workflow": run.workflow,
            "version": run.version,
            "labels": run.labels,
            "started_at": rfc3339(run.started_at_ms),
        },
    }
    return root.enter(turn, Enclosure(None, 0, "", names), 0, root.id)


def derived(run: Run, program: Program | None) -> Live:
    """What is derived from the rows before any block is entered."""
    steps_max = 0 if program is None else program.steps_max
    return Live(steps_max, dispatched=sum(step.attempt for step in run.steps.values()))
