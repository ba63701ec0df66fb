"""Owns the examples of `parallel`: sections, maps, concurrency, joins."""

from typing import Any

from penstock.testkit.builders import a_chain, a_task
from services.orchestrator.core.tests.conversation import Conversation


def sections(*blocks: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A parallel block `all` of sections."""
    return {"id": "all", "parallel": {"sections": list(blocks), **fields}}


def a_map(over: str, do: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A parallel block `docs` that maps."""
    return {"id": "docs", "parallel": {"map": over, "do": do, **fields}}


def test_sections_run_side_by_side_and_join_by_id() -> None:
    talk = Conversation(sections(a_task("one"), a_task("two"), a_task("three")))
    assert talk.asked() == ["all/one#1", "all/two#1", "all/three#1"]

    talk.succeed("all/two", 2)
    talk.succeed("all/three", 3)
    finished = talk.succeed("all/one", 1).finished

    assert finished is not None
    assert finished.output == {"one": 1, "two": 2, "three": 3}


def test_a_map_asks_for_each_item_and_keeps_their_order() -> None:
    talk = Conversation(
        a_map("input.names", a_chain(a_task("read", input="{{ index }}: {{ item }}"), step_id="each")),
        {"names": ["a", "b"]},
    )
    assert talk.asked() == ["docs[0]/each/read#1", "docs[1]/each/read#1"]
    assert talk.inputs() == ["0: a", "1: b"]
    assert (talk.run.steps["docs"].kind, talk.run.steps["docs"].output) == ("map", 2)

    talk.succeed("docs[1]/each/read", "B")
    finished = talk.succeed("docs[0]/each/read", "A").finished

    assert finished is not None
    assert finished.output == ["A", "B"]


def test_a_map_over_nothing_is_over_at_once() -> None:
    talk = Conversation(a_map("input.names", a_task("read")), {"names": []})

    assert talk.run.output == []
    assert talk.run.status == "completed"


def test_max_concurrency_is_never_exceeded_and_always_used() -> None:
    talk = Conversation(a_map("range(5)", a_task("read"), max_concurrency=2))
    assert talk.asked() == ["docs[0]/read#1", "docs[1]/read#1"]

    talk.succeed("docs[1]/read")
    assert talk.asked() == ["docs[2]/read#1"]
    talk.succeed("docs[2]/read")
    assert talk.asked() == ["docs[3]/read#1"]
    talk.succeed("docs[0]/read")
    assert talk.asked() == ["docs[4]/read#1"]
    talk.succeed("docs[4]/read")
    assert talk.asked() == []
    assert talk.succeed("docs[3]/read").finished is not None


def test_join_all_fails_with_the_first_failure_and_cancels_the_others() -> None:
    talk = Conversation(sections(a_task("one"), a_task("two"), a_task("three"), max_concurrency=2))

    decision = talk.fail("all/two", message="no")

    assert decision.finished is not None
    assert decision.finished.error is not None
    assert decision.finished.error.step == "all/two"
    assert talk.run.steps["all/one"].phase.value == "cancelled"
    assert talk.asked() == []
    assert talk.succeed("all/one", "late").empty


def test_a_request_that_the_same_event_cancels_is_not_sent() -> None:
    """Guard: the first section is entered and cancelled before anybody heard of it."""
    talk = Conversation(sections(a_task("one"), a_task("two", input="{{ input.missing }}")))

    assert talk.asked() == []
    assert talk.run.status == "failed"
    assert talk.run.steps["all/one"].phase.value == "cancelled"


def test_best_effort_puts_the_failure_in_its_place() -> None:
    talk = Conversation(
        a_chain(a_map("range(3)", a_task("read"), join="best_effort"), a_task("join", input="{{ docs }}"))
    )
    talk.succeed("main/docs[0]/read", "a")
    talk.fail("main/docs[1]/read", code="unreadable", message="bytes")
    talk.succeed("main/docs[2]/read", "c")

    error = {"code": "unreadable", "message": "bytes", "step": "main/docs[1]/read"}
    assert talk.inputs()[0] == ["a", {"error": error}, "c"]


def test_a_failure_inside_a_best_effort_cancels_only_its_branch() -> None:
    inner = {"id": "inner", "parallel": {"sections": [a_task("left"), a_task("right")]}}
    talk = Conversation({"id": "docs", "parallel": {"map": "range(2)", "do": inner, "join": "best_effort"}})

    talk.fail("docs[0]/inner/right")

    phases = {path: step.phase.value for path, step in talk.run.steps.items()}
    assert phases["docs[0]/inner/left"] == "cancelled"
    assert phases["docs[1]/inner/left"] == phases["docs[1]/inner/right"] == "waiting"


def test_cancelling_a_block_spares_one_whose_path_only_begins_alike() -> None:
    """Guard: `docs[1]` is not below `docs[1`, nor `main/a1` below `main/a`."""
    a = {"id": "a", "parallel": {"sections": [a_task("x"), a_task("y")]}}
    a1 = {"id": "a1", "parallel": {"sections": [a_task("z")]}}
    talk = Conversation(sections(a, a1, join="best_effort"))

    talk.fail("all/a/x")

    assert talk.run.steps["all/a/y"].phase.value == "cancelled"
    assert talk.run.steps["all/a1/z"].phase.value == "waiting"


def test_what_a_map_goes_over_must_be_a_list_and_bounded() -> None:
    for given, says in (("text", "is not a list but str"), ([1, 2, 3], "has 3 items, its items_max is 2")):
        talk = Conversation(a_map("input.names", a_task("read"), items_max=2), {"names": given})

        assert talk.run.error is not None
        assert talk.run.error.code == "expression_failed"
        assert says in talk.run.error.message
        assert talk.run.steps["docs"].phase.value == "failed"


def test_an_item_sees_the_scope_around_its_map() -> None:
    talk = Conversation(
        a_chain(
            a_task("find"),
            a_map(
                "find.names",
                a_map("item.parts", a_task("read", input=["{{ find.root }}", "{{ item }}"])) | {"id": "parts"},
            ),
        )
    )

    talk.succeed("main/find", {"root": "/", "names": [{"parts": ["x"]}, {"parts": ["y", "z"]}]})

    assert talk.asked() == [
        "main/docs[0]/parts[0]/read#1",
        "main/docs[1]/parts[0]/read#1",
        "main/docs[1]/parts[1]/read#1",
    ]
    assert talk.inputs() == [["/", "x"], ["/", "y"], ["/", "z"]]


def test_a_thousand_branches_that_end_at_once_are_no_recursion() -> None:
    talk = Conversation(a_map("range(1000)", a_task("read"), max_concurrency=1000))
    for index in range(999):
        talk.run.steps[f"docs[{index}]/read"].phase = talk.run.steps["docs"].phase
    talk.run.live = None

    assert talk.succeed("docs[999]/read").finished is not None


def test_leaves_are_cancelled_in_an_order_that_a_restart_does_not_change() -> None:
    """Guard: `b` was asked for after `c`, but is entered before it when the run is restored."""
    talk = Conversation(sections(a_chain(a_task("a"), a_task("b")), a_task("c")))
    talk.succeed("all/main/a")

    decision = talk.cancel()

    assert [change["step"] for change in decision.changes] == ["all/c", "all/main/b"]


def test_items_are_counted_once() -> None:
    """Guard: a restored run has the items in its row, even where the expression would now give more."""
    talk = Conversation(a_chain(a_task("find"), a_map("find", a_task("read"))))
    talk.succeed("main/find", [1, 2])
    talk.run.steps["main/find"].output = [1, 2, 3]
    talk.run.live = None

    talk.succeed("main/docs[0]/read", "a")
    finished = talk.succeed("main/docs[1]/read", "b").finished

    assert finished is not None
    assert finished.output == ["a", "b"]


def test_a_map_that_failed_stays_failed_when_its_run_is_restored() -> None:
    """Guard: what its row says is not evaluated again."""
    talk = Conversation(sections(a_map("input.names", a_task("read")), a_task("go"), join="best_effort"))

    finished = talk.succeed("all/go", 1).finished

    assert finished is not None
    assert finished.output["docs"]["error"]["code"] == "expression_failed"
