"""Owns the examples of amplification: a run that makes far more calls than its workflow's runs do."""

from penstock.testkit.builders import a_chain, a_definition, a_task
from services.orchestrator.shell.amplification import RUNS_MAX, RUNS_MIN, WORKFLOWS_MAX, CallHistory
from services.orchestrator.shell.testing import World


def test_nothing_is_known_of_a_workflow_before_enough_runs_ended() -> None:
    history = CallHistory()
    for _ in range(RUNS_MIN - 1):
        history.ended("audit", 10)

    assert history.limit("audit") is None
    assert not history.passes("audit", 0, 1_000)


def test_a_run_passes_what_its_workflow_does_once() -> None:
    history = CallHistory()
    for calls in (9, 10) * RUNS_MIN:
        history.ended("audit", calls)

    assert history.limit("audit") == 30
    passes = [history.passes("audit", calls - 1, calls) for calls in (29, 30, 31, 32)]
    assert passes == [False, False, True, False]
    assert history.passes("audit", 28, 40)
    assert not history.passes("other", 28, 40)


def test_a_few_runs_that_did_more_do_not_make_it_usual_and_old_ones_are_forgotten() -> None:
    history = CallHistory()
    for calls in [10] * 40 + [1_000] * 2:
        history.ended("audit", calls)
    assert history.limit("audit") == 30

    for _ in range(RUNS_MAX):
        history.ended("audit", 100)

    assert history.limit("audit") == 300


def test_only_so_many_workflows_are_remembered() -> None:
    history = CallHistory()
    for number in range(WORKFLOWS_MAX + 1):
        for _ in range(RUNS_MIN):
            history.ended(f"w{number}", 1)

    assert history.limit("w0") is None
    assert history.limit(f"w{WORKFLOWS_MAX}") == 3


async def test_a_run_that_makes_far_more_calls_than_others_raises_the_metric_once() -> None:
    # given many runs of one call each
    world = World()
    await world.own(0)
    each = {"id": "each", "parallel": {"map": "input.items", "do": a_task("work")}}
    await world.publish(a_definition(a_chain(each, a_task("last"))))
    for number in range(RUNS_MIN):
        await world.owner.process([world.request(f"order-{number}", input={"items": []})])
        (only,) = world.wire.take_tasks()
        await world.owner.process([world.answer(only)])
    # when one makes five, and one more later
    await world.owner.process([world.request("huge", input={"items": [1, 2, 3, 4, 5]})])
    amplified = {"workflow": "example"}
    assert world.metrics.get_sample_value("penstock_runs_amplified_total", amplified) == 1
    for task in world.wire.take_tasks():
        await world.owner.process([world.answer(task)])
    # then it is counted once
    assert world.metrics.get_sample_value("penstock_runs_amplified_total", amplified) == 1
