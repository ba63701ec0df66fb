"""Owns the promise that a definition of the first language, as it was published then, is decided as it was then."""

import json
from pathlib import Path

from penstock.workflow.checks import check
from penstock.workflow.definition import Definition
from services.orchestrator.core.tests.conversation import Conversation

BODY = json.loads((Path(__file__).parent / "golden" / "first_language.json").read_text())
"""A published body with every default of then written out: chain, route, map, sections, model, tool and task."""


def test_what_was_sound_is_sound() -> None:
    assert check(Definition.model_validate(BODY)) == []


def test_a_run_of_it_asks_for_the_same_in_the_same_order() -> None:
    # given a run over three letters, two of them at once
    talk = Conversation(Definition.model_validate(BODY), {"letters": [{"text": "a"}, {"text": "b"}, {"text": "c"}]})
    assert talk.asked() == ["main/each[0]/letter/sort#1", "main/each[1]/letter/sort#1"]
    # when they are sorted, each goes its way
    talk.succeed("main/each[1]/letter/sort", {"kind": "other"})
    assert (talk.asked(), talk.inputs()) == (["main/each[1]/letter/pick/keep#1"], [{"text": "b", "number": 1}])
    talk.succeed("main/each[0]/letter/sort", {"kind": "bill"})
    assert talk.asked() == ["main/each[0]/letter/pick/pay#1"]
    talk.succeed("main/each[1]/letter/pick/keep", "kept")
    assert talk.asked() == ["main/each[2]/letter/sort#1"]
    # and an answer that misses its schema is asked for again, once
    talk.succeed("main/each[2]/letter/sort", {"kind": "spam"})
    assert talk.asked() == ["main/each[2]/letter/sort#2"]
    talk.succeed("main/each[2]/letter/sort", {"kind": "other"}, attempt=2)
    talk.succeed("main/each[2]/letter/pick/keep", "kept too")
    talk.succeed("main/each[0]/letter/pick/pay", 12)
    assert talk.asked() == ["main/both/count#1", "main/both/tell#1"]
    assert talk.inputs() == [[12, "kept", "kept too"], {"how_many": 3}]
    talk.fail("main/both/tell", code="no", message="no")
    finished = talk.succeed("main/both/count", 3).finished
    # then it ends as it did then
    assert finished is not None
    error = {"code": "no", "message": "no", "step": "main/both/tell"}
    assert finished.output == {"each": [12, "kept", "kept too"], "both": {"count": 3, "tell": {"error": error}}}
    assert {path: step.output for path, step in talk.run.steps.items() if step.kind in ("route", "map")} == {
        "main/each": 3,
        "main/each[0]/letter/pick": "bill",
        "main/each[1]/letter/pick": "otherwise",
        "main/each[2]/letter/pick": "otherwise",
    }
