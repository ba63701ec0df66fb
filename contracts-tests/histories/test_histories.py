"""Owns the golden histories: what the core decides, event by event, stays what somebody has read and found right."""

from pathlib import Path

import pytest

from penstock.workflow.definition import every_block
from penstock.workflow.parts import UndoTask, UndoTool
from services.orchestrator.core.blocks import BLOCKS
from services.rehearsal.reading import ReadyScript, found, read_script
from services.rehearsal.rehearsal import rehearse
from services.rehearsal.replay import deviations, recorded, recorded_name
from services.rehearsal.verdict import mismatches

FOLDER = Path(__file__).parent
RECORDED = sorted((FOLDER / "recorded").glob("*.yaml"))
RECORD_AGAIN = (
    "read what changed, then: penstock test contracts-tests/histories --record contracts-tests/histories/recorded"
)


UNDOS: set[type] = {UndoTask, UndoTool}


def stories() -> list[ReadyScript]:
    return [read_script(file) for file in found(FOLDER / "stories")]


@pytest.mark.parametrize("history", RECORDED, ids=lambda path: path.stem)
def test_the_core_decides_as_recorded(history: Path) -> None:
    # Given a run's history, when its events are told again, to it and to one restored from its rows
    found_deviations = deviations(history.read_text(encoding="utf-8"))

    # Then both decide what they decided when somebody read it
    assert found_deviations == [], "\n".join([*found_deviations, RECORD_AGAIN])


def test_every_story_goes_as_told_and_is_recorded() -> None:
    written: dict[str, str] = {}
    for script in stories():
        for ready in script.cases:
            # Given a story, when it is played
            happened = rehearse(ready.definition, ready.case, script.script.answers, ready.children)

            # Then it goes as it says
            assert happened.stopped is None
            assert mismatches(ready.case.expect, happened) == []
            written[recorded_name(script.file, ready.case.name)] = recorded(ready.definition, happened, ready.case.name)

    # And its history is the recorded one; none is left without its story
    assert {path.name for path in RECORDED} == set(written), RECORD_AGAIN
    changed = [path.name for path in RECORDED if path.read_text(encoding="utf-8") != written[path.name]]
    assert changed == [], RECORD_AGAIN


def test_every_kind_of_block_has_a_story() -> None:
    # Given the kinds of blocks that the core knows, when all blocks of all stories are looked at
    told = {type(block) for script in stories() for ready in script.cases for block in every_block(ready.definition.do)}

    # Then each kind is among them; undos are no blocks, and have stories of their own
    assert {kind.__name__ for kind in set(BLOCKS) - told - UNDOS} == set(), (
        "write a story into contracts-tests/histories/stories/blocks.test.yaml, then: " + RECORD_AGAIN
    )


def test_a_history_that_was_tampered_with_is_told_by_its_event() -> None:
    # Given a history in which a step's attempt is another
    text = (FOLDER / "recorded" / "failures-retry_elsewhere.yaml").read_text(encoding="utf-8")
    wrong = text.replace("route: 1", "route: 0")
    assert wrong != text

    # When it is replayed
    lines = deviations(wrong)

    # Then the event is named, with the difference
    assert lines[0] == "event 1 at 2s: the core decides otherwise"
    assert any(line.startswith("-") and "route: 0" in line for line in lines)
