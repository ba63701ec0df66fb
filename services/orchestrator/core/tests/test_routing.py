"""Owns the examples of routes: which is taken when breakers are open or routes full, and what is waited for."""

from typing import Any

import pytest

from penstock.contracts.messages import InferenceRequested, NextMove, StepPhase
from penstock.testkit.builders import BEGINNING_MS, a_model
from services.orchestrator.core.breakers import Breakers, RouteEvent
from services.orchestrator.core.leaf import LeafNode
from services.orchestrator.core.routing import NOT_THE_ROUTES_FAULT
from services.orchestrator.core.tests.conversation import Conversation

SECOND = 1_000


def tiers(*routes: dict[str, Any], **breaker: Any) -> dict[str, Any]:
    """One tier whose breakers open after two failures."""
    named = [{"pool": "small", "model": f"m{number}", **route} for number, route in enumerate(routes)]
    return {"small": {"routes": named, "breaker": {"calls_min": 2, "open_seconds": 30, **breaker}}}


def a_talk(step: dict[str, Any], *routes: dict[str, Any], broken: tuple[int, ...] = (), **fields: Any) -> Conversation:
    """A run whose tier has some routes that are left alone from the beginning on."""
    tier = tiers(*routes)
    known = Breakers()
    scout = Conversation(a_model("scout"), tiers=tier)
    root = scout.program.root
    assert isinstance(root, LeafNode)
    for number in broken:
        events = [RouteEvent(root.routes[number], "failed", 0, BEGINNING_MS, BEGINNING_MS)] * 2
        known.learn(events)
    return Conversation(step, tiers=tier, routes=known, **fields)


def taken(talk: Conversation) -> list[tuple[str, str | None]]:
    """The models that the last decision asks, and why."""
    reasons = {change["step"]: change.get("route_reason") for change in talk.last.changes}
    return [
        (request.model, reasons[request.step])
        for request in talk.last.requests
        if isinstance(request, InferenceRequested)
    ]


def test_the_first_route_is_taken_without_a_word() -> None:
    assert taken(a_talk(a_model("say"), {}, {})) == [("m0", None)]


def test_with_the_breaker_open_the_next_route_is_taken_at_once() -> None:
    talk = a_talk(a_model("say"), {}, {}, {}, broken=(0, 1))

    assert taken(talk) == [("m2", "breaker_open")]
    step = talk.run.steps["say"]
    assert (step.route, step.route_reason) == (2, "breaker_open")


def test_above_in_flight_max_the_next_route_is_taken() -> None:
    many = {"id": "many", "parallel": {"map": "range(4)", "do": a_model("say")}}

    talk = a_talk(many, {"in_flight_max": 1}, {"in_flight_max": 2}, {})

    assert taken(talk) == [("m0", None), ("m1", "in_flight_max"), ("m1", "in_flight_max"), ("m2", "in_flight_max")]


def test_with_all_routes_full_the_cheapest_is_taken() -> None:
    dear = {"in_flight_max": 1, "price": {"input_per_million": 2, "output_per_million": 2}}
    cheap = {"in_flight_max": 1, "price": {"input_per_million": 1, "output_per_million": 1}}
    many = {"id": "many", "parallel": {"map": "range(3)", "do": a_model("say")}}

    assert taken(a_talk(many, dear, cheap))[-1] == ("m1", "all_full")


def test_an_answer_makes_room_again() -> None:
    chain = {"id": "main", "chain": [a_model("one"), a_model("two")]}
    talk = a_talk(chain, {"in_flight_max": 1}, {})

    talk.succeed("main/one", "yes")

    assert taken(talk) == [("m0", None)]


def test_a_repair_goes_to_the_same_model_however_full_it_is() -> None:
    both = {"id": "both", "parallel": {"sections": [a_model("one"), a_model("two")]}}
    talk = a_talk(both, {"in_flight_max": 1}, {})

    talk.fail("both/one", NextMove.REPAIR_OUTPUT)

    assert taken(talk)[0][0] == "m0"


@pytest.mark.parametrize("move", [NextMove.RETRY_ELSEWHERE, NextMove.RETRY_AFTER])
def test_failed_attempts_open_the_breaker(move: NextMove) -> None:
    talk = a_talk(a_model("say", retry={"attempts": 5}), {})
    talk.fail("say", move)
    talk.ring()
    assert talk.asked() == ["say#2"]

    talk.fail("say", move, attempt=2)
    talk.ring()

    step = talk.run.steps["say"]
    assert talk.asked() == []
    assert (step.phase, step.route_reason, step.tries) == (StepPhase.RETRYING, "all_open", 2)


@pytest.mark.parametrize("code", sorted(NOT_THE_ROUTES_FAULT))
def test_what_the_request_is_to_blame_for_does_not_open_it(code: str) -> None:
    chain = {"id": "main", "chain": [a_model("one"), a_model("two"), a_model("three")]}
    talk = a_talk(chain, {}, {})

    for name in ("one", "two"):
        talk.fail(f"main/{name}", NextMove.RETRY_ELSEWHERE, code=code)
        talk.succeed(f"main/{name}", "yes", attempt=2)

    assert taken(talk) == [("m0", None)]


def test_a_timeout_counts_as_a_failure() -> None:
    talk = a_talk(a_model("say", timeout_seconds=1), {}, {})
    talk.ring()
    assert taken(talk) == [("m1", "fallback")]
    known = talk.facts.routes
    assert known is not None
    assert [event.kind for event in talk.last.route_events] == ["failed", "asked"]
    assert (known.in_flight("small/m0"), known.in_flight("small/m1")) == (0, 1)


def test_with_all_routes_open_a_step_waits_for_the_first_to_half_open_and_costs_no_attempt() -> None:
    talk = a_talk(a_model("say"), {}, {}, broken=(0, 1))
    step = talk.run.steps["say"]
    assert talk.asked() == []
    assert (step.phase, step.tries, step.due_at_ms) == (StepPhase.RETRYING, 0, BEGINNING_MS + 30 * SECOND)
    assert talk.last.changes[0]["route_reason"] == "all_open"

    talk.ring()

    assert taken(talk) == [("m0", "probe")]
    assert step.tries == 1


@pytest.mark.parametrize(
    ("fields", "run", "cap"),
    [({"step_timeout_seconds": 20}, {}, "step_timeout_seconds"), ({}, {"deadline_seconds": 20}, "deadline")],
)
def test_what_cannot_be_waited_for_fails(fields: dict[str, Any], run: dict[str, Any], cap: str) -> None:
    talk = a_talk(a_model("say", **fields), {}, {}, broken=(0, 1), **run)

    error = talk.run.error
    assert error is not None
    assert error.code == "breaker_open"
    assert "no route of the tier (small/m0, small/m1) may be tried before 2026-01-01T00:00:30" in error.message
    assert f"beyond the {cap} at 2026-01-01T00:00:20" in error.message
    assert error.message.endswith(f"lower its breaker's open_seconds, or raise the {cap}")


def test_a_route_that_failed_the_step_is_not_asked_again_at_once_because_the_others_are_open() -> None:
    talk = a_talk(a_model("say", retry={"initial_ms": 1_000}), {}, {}, broken=(1,))

    talk.fail("say", NextMove.RETRY_ELSEWHERE)
    assert talk.asked() == []
    assert BEGINNING_MS < (talk.last.alarm_at_ms or 0) <= BEGINNING_MS + 1_000
    talk.ring()

    assert taken(talk) == [("m0", "breaker_open")]


def test_a_cancelled_call_is_no_longer_in_flight() -> None:
    talk = a_talk(a_model("say"), {})

    talk.cancel()

    assert talk.facts.routes is not None
    assert talk.facts.routes.in_flight("small/m0") == 0
    assert [event.kind for event in talk.last.route_events] == ["abandoned"]


def test_the_run_whose_call_was_the_probe_goes_on_at_once() -> None:
    chain = {"id": "main", "chain": [a_model("one"), a_model("two")]}
    talk = a_talk(chain, {}, broken=(0,))
    talk.ring()
    assert taken(talk) == [("m0", "probe")]

    talk.succeed("main/one", "yes")

    assert talk.asked() == ["main/two#1"]
