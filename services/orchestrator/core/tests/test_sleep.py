"""Owns the examples of `sleep`: a row with a due time, and nothing asked for."""

from typing import Any

import pytest

from penstock.testkit.builders import BEGINNING_MS, a_chain, a_task
from services.orchestrator.core.tests.conversation import Conversation


def a_sleep(sleep: Any, **fields: Any) -> dict[str, Any]:
    """A sleep `nap`."""
    return {"id": "nap", "sleep": sleep, **fields}


def napping(sleep: Any, **fields: Any) -> Conversation:
    """A run that sleeps, then works."""
    return Conversation(a_chain(a_sleep(sleep), a_task("work", input={"said": "{{ nap }}"})), **fields)


def test_a_sleep_sends_nothing_and_wakes_when_the_alarm_rings() -> None:
    talk = napping(90)

    assert talk.asked() == []
    assert talk.last.alarm_at_ms == BEGINNING_MS + 90_000
    step = talk.run.steps["main/nap"]
    assert (step.kind, step.phase.value, step.attempt, step.request_id) == ("sleep", "waiting", 0, None)
    assert step in talk.last.steps

    assert talk.ring(BEGINNING_MS + 89_999).empty
    talk.ring(BEGINNING_MS + 90_000)
    assert talk.asked() == ["main/work#1"]
    assert talk.inputs() == [{"said": None}]
    assert (step.path, talk.run.steps["main/nap"].phase.value) == ("main/nap", "completed")


@pytest.mark.parametrize(
    ("sleep", "due_ms"),
    [
        (1.5, 1_500),
        ("{{ input.seconds }}", 30_000),
        ("{{ input.seconds * 60 }}", 1_800_000),
        ({"until": "2026-01-01T00:05:00Z"}, 300_000),
        ({"until": "2026-01-01t01:05:00.250+01:00"}, 300_250),
        ({"until": "{{ input.at }}"}, 60_000),
        ({"until": "{{ input.day }}T00:02:00Z"}, 120_000),
    ],
)
def test_a_sleep_is_seconds_or_until_a_time(sleep: Any, due_ms: int) -> None:
    given = {"seconds": 30, "at": "2026-01-01T00:01:00Z", "day": "2026-01-01"}

    talk = Conversation(a_sleep(sleep), given)

    assert talk.last.alarm_at_ms == BEGINNING_MS + due_ms


@pytest.mark.parametrize("sleep", [0, "{{ 0 }}", {"until": "2025-12-31T23:59:59Z"}, {"until": "2026-01-01T00:00:00Z"}])
def test_no_time_at_all_is_over_at_once(sleep: Any) -> None:
    talk = napping(sleep)

    assert talk.asked() == ["main/work#1"]
    assert talk.run.steps["main/nap"].phase.value == "completed"


@pytest.mark.parametrize(
    ("sleep", "code", "says"),
    [
        ("{{ input.text }}", "expression_failed", "sleep: soon (str) is not a number of seconds"),
        ("{{ input.yes }}", "expression_failed", "sleep: True (bool) is not a number of seconds"),
        ("{{ input.less }}", "expression_failed", "sleep: -1 (int) is not a number of seconds"),
        ("{{ input.missing }}", "expression_failed", "there is no field `missing`"),
        ({"until": "{{ input.text }}"}, "expression_failed", "sleep: `soon` is not a time in RFC 3339, as 2026-01-31"),
        ({"until": "{{ input.yes }}"}, "expression_failed", "sleep: `True` is not a time in RFC 3339"),
        ({"until": "{{ input.local }}"}, "expression_failed", "is not a time in RFC 3339"),
        ({"until": "{{ input.no_day }}"}, "expression_failed", "is not a time: "),
        ("{{ input.long }}", "sleep_too_long", "would take 2.6e+06 s, more than 2.592e+06, the `sleep_seconds_max` of"),
        ("{{ input.huge }}", "sleep_too_long", "would take 1e+308 s, more than"),
        ({"until": "2027-01-01T00:00:00Z"}, "sleep_too_long", "would take 3.1536e+07 s, more than"),
        (
            "{{ input.late }}",
            "deadline_exceeded",
            "the sleep would end at 2026-01-01T01:00:00.000Z, the run's deadline is 2026-01-01T01:00:00.000Z",
        ),
    ],
)
def test_what_is_no_sleep_fails_its_step(sleep: Any, code: str, says: str) -> None:
    given = {"text": "soon", "yes": True, "less": -1, "long": 2_600_000, "huge": 1e308, "late": 3_600}
    given |= {"local": "2026-01-01T00:00:00", "no_day": "2026-02-30T00:00:00Z"}

    talk = Conversation(a_sleep(sleep), given)

    assert talk.run.error is not None
    assert (talk.run.error.code, talk.run.error.step) == (code, "nap")
    assert says in talk.run.error.message
    assert talk.run.steps["nap"].phase.value == "failed"


def test_a_sleep_survives_a_restart() -> None:
    talk = napping(90)
    talk.run.live = None

    assert talk.ring(BEGINNING_MS + 80_000).empty
    talk.run.live = None
    talk.ring(BEGINNING_MS + 90_000)

    assert talk.asked() == ["main/work#1"]


def test_how_long_to_sleep_is_decided_once() -> None:
    """Guard: a restored run has the due time in its row, even where the expression would now give another."""
    talk = Conversation(a_chain(a_task("find"), a_sleep("{{ find }}"), a_task("work")))
    talk.succeed("main/find", 90)
    talk.run.steps["main/find"].output = 10
    talk.run.live = None

    assert talk.ring(BEGINNING_MS + 10_000).empty
    talk.ring(BEGINNING_MS + 90_000)
    assert talk.asked() == ["main/work#1"]


def test_a_cancelled_run_sleeps_no_more() -> None:
    talk = napping(90)

    decision = talk.cancel()

    assert talk.run.steps["main/nap"].phase.value == "cancelled"
    assert decision.alarm_at_ms is None
    assert talk.ring(BEGINNING_MS + 90_000).empty


def test_a_run_that_is_late_at_its_alarm_fails_at_its_deadline() -> None:
    talk = napping(90, deadline_seconds=100)

    finished = talk.ring(BEGINNING_MS + 100_000).finished

    assert finished is not None
    assert finished.error is not None
    assert finished.error.code == "deadline_exceeded"
    assert talk.run.steps["main/nap"].phase.value == "cancelled"


def test_sleeps_side_by_side_wake_in_their_order_and_one_alarm_serves_those_that_are_due() -> None:
    chains = [a_chain({"id": f"nap{n}", "sleep": n}, a_task(f"work{n}"), step_id=f"c{n}") for n in (30, 10, 20)]
    talk = Conversation({"id": "all", "parallel": {"sections": chains}})
    assert talk.last.alarm_at_ms == BEGINNING_MS + 10_000

    talk.ring(BEGINNING_MS + 25_000)

    assert talk.asked() == ["all/c10/work10#1", "all/c20/work20#1"]
    assert talk.last.alarm_at_ms == BEGINNING_MS + 30_000


def test_a_quorum_with_a_sleep_is_a_time_limit() -> None:
    limit = {"id": "limit", "parallel": {"sections": [a_task("slow"), a_sleep(20)], "join": {"quorum": 1}}}
    talk = Conversation(limit)

    finished = talk.ring(BEGINNING_MS + 20_000).finished

    assert finished is not None
    assert finished.output == {"slow": None, "nap": None}
    assert talk.run.steps["limit/slow"].phase.value == "cancelled"


def test_a_sleep_is_no_attempt_that_steps_max_counts() -> None:
    naps = [{"id": f"nap{n}", "sleep": 1} for n in range(3)]
    talk = Conversation(a_chain(*naps, a_task("work")), steps_max=1)
    for _ in naps:
        talk.ring()

    assert talk.asked() == ["main/work#1"]


def test_a_redrive_goes_on_sleeping_until_the_time_it_would_have_been() -> None:
    talk = Conversation({"id": "all", "parallel": {"sections": [a_sleep(90), a_task("work")]}})
    talk.now_ms += 30_000
    talk.fail("all/work")
    assert talk.run.steps["all/nap"].phase.value == "cancelled"

    talk.now_ms += 10_000
    talk.redrive()

    assert talk.asked() == ["all/work#2"]
    assert talk.run.steps["all/nap"].due_at_ms == BEGINNING_MS + 90_000
    talk.succeed("all/work", 1, attempt=2)
    finished = talk.ring(BEGINNING_MS + 90_000).finished
    assert finished is not None
    assert finished.output == {"nap": None, "work": 1}


def test_a_redrive_after_the_sleep_would_have_ended_goes_on_at_once() -> None:
    talk = Conversation({"id": "all", "parallel": {"sections": [a_sleep(90), a_task("work")]}})
    talk.fail("all/work")
    talk.now_ms += 120_000

    talk.redrive()

    assert talk.run.steps["all/nap"].phase.value == "completed"
    finished = talk.succeed("all/work", 1, attempt=2).finished
    assert finished is not None


def test_a_sleep_that_failed_begins_when_it_is_redriven() -> None:
    talk = Conversation(a_sleep("{{ input.seconds }}"), {"seconds": 3_000}, deadline_seconds=2_000)
    assert talk.run.error is not None
    assert talk.run.error.code == "deadline_exceeded"
    talk.now_ms += 2_500_000
    talk.run.input = {"seconds": 100}  # as a person may have put it right

    talk.redrive()

    assert talk.run.steps["nap"].due_at_ms == talk.now_ms + 100_000


def test_a_failed_sleep_stays_failed_when_its_run_is_restored() -> None:
    effort = {"sections": [a_sleep("{{ input.seconds }}"), a_task("go")], "join": "best_effort"}
    talk = Conversation({"id": "all", "parallel": effort}, {"seconds": 9_000})
    talk.run.live = None

    finished = talk.succeed("all/go", 1).finished

    assert finished is not None
    assert finished.output["nap"]["error"]["code"] == "deadline_exceeded"
