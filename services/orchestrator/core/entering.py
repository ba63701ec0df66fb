"""Owns how a run's blocks are entered: what is in scope at the root, and what is derived before that."""

from typing import Any

from penstock.workflow.whole import CONTENTS
from services.orchestrator.core.accounts import Account, account_of
from services.orchestrator.core.budget import effective
from services.orchestrator.core.compiler import Node
from services.orchestrator.core.frames import Answer, Enclosure, Live
from services.orchestrator.core.program import Program
from services.orchestrator.core.state import Run
from services.orchestrator.core.turn import Turn, moment_text


class RunFrame(Enclosure):
    """The run around its root block: its names, and its account where it has a budget."""

    __slots__ = ("_account",)

    def __init__(self, parent: None, slot: int, path: str, names: dict[str, Any], account: Account | None) -> None:
        super().__init__(parent, slot, path, names)
        self._account = account

    def account(self) -> Account | None:
        """The run's account."""
        return self._account


def enter(turn: Turn, root: Node) -> Answer:
    """Enters the root block: begins the run, or finds where its rows say that it is."""
    run = turn.run
    turn.run.live = turn.live
    names = {
        CONTENTS: turn.live.contents,
        "input": run.input,
        "run": {
            "id": run.run_id,
            "tenant": run.tenant,
            "workflow": run.workflow,
            "version": run.version,
            "labels": run.labels,
            "started_at": moment_text(run.started_at_ms),
        },
    }
    return root.enter(turn, RunFrame(None, 0, "", names, turn.live.account), 0, root.id)


def derived(run: Run, program: Program | None) -> Live:
    """What is derived from the rows before any block is entered."""
    steps_max = 0 if program is None else program.steps_max
    deadline_ms = 0 if program is None else program.deadline_ms
    asked = sum(step.attempt for step in run.steps.values() if step.kind != "undo")
    live = Live(steps_max, asked, deadline_ms)
    live.attribution = {
        "tenant": run.tenant,
        "run_key": run.key,
        "run_id": run.run_id,
        "home": run.home,
        "workflow": run.workflow,
        "version": run.version,
        "labels": run.labels,
        "priority": run.priority,
    }
    if program is not None and program.undos:
        live.undos, live.undo_ms = program.undos, program.undo_ms
        live.undo_order = max((step.undo.order for step in run.steps.values() if step.undo is not None), default=0)
    ceiling = None if program is None else program.budget
    # Of a run that began before its workflow was known, the row has only what its request brought.
    budget = effective(run.budget, ceiling)
    if budget is not None:
        live.account = account_of(run, budget, ceiling=ceiling)
        live.accounted = True
    return live
