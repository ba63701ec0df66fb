"""What a run can come to at worst, what is drawn of a definition, and what is worth saying about it."""

from decimal import Decimal
from typing import Any

import pytest

from penstock.testkit.builders import a_chain, a_definition, a_model, a_task, a_tool, an_embedding
from penstock.workflow.advice import advice
from penstock.workflow.definition import Definition
from penstock.workflow.graph import drawn, mermaid
from penstock.workflow.sizes import value_bytes
from penstock.workflow.worst_case import worst_case

ONCE = {"attempts": 1}
PRICED = {"pool": "small", "model": "a", "price": {"input_per_million": "1000000", "output_per_million": "2000000"}}


def a_map(do: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A map over the input."""
    return {"id": "each", "parallel": {"map": "input.items", "do": do, **fields}}


def of(do: dict[str, Any], **fields: Any) -> Definition:
    """A workflow over a list of at most ten short texts, on one priced route."""
    items = {"type": "array", "maxItems": 10, "items": {"type": "string", "maxLength": 4}}
    schema = {"type": "object", "properties": {"items": items}, "additionalProperties": False}
    return a_definition(do, **{"input": schema, "tiers": {"small": [PRICED]}} | fields)


def test_a_maps_worst_case_is_that_of_all_items_at_once_as_allowed() -> None:
    # Given a map of a model step and a task over ten items, two at once
    inner = a_chain(
        a_model("say", prompt="abc", max_tokens=7, retry=ONCE, timeout_seconds=5),
        a_task("keep", retry=ONCE, timeout_seconds=1),
    )

    # When its worst case is reckoned
    worst = worst_case(of(a_map(inner, max_concurrency=2))).bound

    # Then it is ten of each, five after another
    assert (worst.requests, worst.model_calls, worst.output_tokens, worst.needed_seconds) == (20, 10, 70, 30.0)
    assert worst.cost == {"USD": Decimal(worst.input_tokens) + 2 * Decimal(70)}
    assert (worst.unpriced, worst.unbounded) == (frozenset(), frozenset())


def test_a_sleep_takes_its_seconds_or_its_cap() -> None:
    naps = [{"id": "one", "sleep": 60}, {"id": "two", "sleep": "{{ 1 }}", "sleep_seconds_max": 90}]

    assert worst_case(a_definition(a_chain(*naps))).needed.needed_seconds == 150


def test_a_votes_worst_case_is_that_of_all_votes() -> None:
    judge = a_model("judge", retry={"attempts": 1}, timeout_seconds=10)
    vote = {"id": "jury", "parallel": {"vote": {"do": judge, "votes": 5, "max_concurrency": 2}}}

    needed = worst_case(a_definition(vote)).needed

    assert (needed.model_calls, needed.needed_seconds) == (5, 30)


def test_what_an_awaited_child_run_costs_is_on_the_bill_where_its_workflow_is_known() -> None:
    # Given a workflow that asks for a run of another, twice at most, and one that only starts one
    child = of(a_model("say", prompt="abc", max_tokens=7, retry=ONCE), name="child")
    asks = {"id": "ask", "run": "child@stable", "retry": {"attempts": 2}, "timeout_seconds": 30}
    starts = {"id": "start", "run": "child", "wait": False, "retry": ONCE}

    # When the worst case is reckoned with and without the other
    alone = worst_case(of(a_chain(asks, starts))).bound
    known = worst_case(of(a_chain(asks, starts)), {"child": child}).bound

    # Then what is waited for counts as often as it may run; its time is its step's, and its requests are its own
    assert (alone.model_calls, alone.uncounted) == (0, frozenset({"ask", "start"}))
    assert (known.model_calls, known.output_tokens, known.uncounted) == (2, 14, frozenset({"start"}))
    assert known.cost == {"USD": 2 * worst_case(child).bound.cost["USD"]}
    assert (known.requests, known.needed_seconds) == (alone.requests, alone.needed_seconds)


def test_a_child_runs_budget_bounds_it() -> None:
    child = of(a_model("say", max_tokens=7, retry={"attempts": 3}), name="child")
    step = {"id": "ask", "run": "child", "budget": {"model_calls": 1}}

    assert worst_case(of(step), {"child": child}).bound.model_calls == 1


def test_workflows_that_ask_for_one_another_have_no_bound_there() -> None:
    one = of({"id": "ask", "run": "two"}, name="one")
    two = of({"id": "ask", "run": "one"}, name="two")

    assert worst_case(one, {"one": one, "two": two}).bound.uncounted == {"ask/ask"}


def test_an_embedding_costs_its_texts_and_answers_with_no_tokens() -> None:
    # Given an embedding of two words, and one of a list of ten short texts
    two = an_embedding("two", input=["water", "wine"], retry={"attempts": 2}, timeout_seconds=5)
    ten = an_embedding("ten", input="{{ input.items }}", retry=ONCE)

    # Then each text counts with its bytes and what a tokenizer adds
    worst = worst_case(of(two)).bound
    assert (worst.requests, worst.model_calls, worst.output_tokens, worst.unbounded) == (2, 2, 0, frozenset())
    assert worst.input_tokens == 2 * (9 + 2 * 4)
    assert worst.cost == {"USD": Decimal(worst.input_tokens)}
    assert worst_case(of(ten)).bound.input_tokens == 10 * (4 * 10 + 8 + 8) + 8 + 10 * 4

    # And what no schema bounds is bounded by what one request carries
    unknown = a_chain(a_task("read"), an_embedding("all", input="{{ read }}", retry=ONCE))
    worst = worst_case(of(unknown)).bound
    assert (worst.unbounded, worst.input_tokens) == (frozenset({"all"}), 524_288 + 2_048 * 4)


def test_choices_from_data_count_with_what_their_schema_lets_them_have() -> None:
    # Given choices that are written down, that a schema bounds, and that nothing does
    listed = a_model("say", prompt="abc", retry=ONCE, choices=["a", "b"])
    bounded = {**listed, "choices": "input.items"}

    # Then the bound has them
    plain = worst_case(of(listed)).bound.input_tokens - len('["a","b"]')
    assert worst_case(of(bounded)).bound.input_tokens == plain + 10 * (4 * 10 + 8 + 8) + 8
    unknown = a_chain(a_task("read"), {**listed, "choices": "read"})
    assert worst_case(of(unknown)).bound.unbounded == frozenset({"say"})


def test_an_embedding_is_drawn_with_where_it_goes() -> None:
    (part,) = [part for _, part in drawn(a_definition(a_chain(an_embedding("vectors")))).inside]

    assert (part.kind, part.detail, part.flow) == ("embed", "small: small/first or burst/second", "step")


def test_caps_lower_the_bound_and_are_named() -> None:
    # Given a map that could want ten calls of seven tokens
    do = a_map(a_model("say", prompt="abc", max_tokens=7, retry=ONCE))

    # When steps_max, and a budget, allow fewer
    by_steps = worst_case(of(do, steps_max=4))
    by_calls = worst_case(of(do, budget={"model_calls": 3}))
    by_cost = worst_case(of(do, budget={"cost": {"amount": "0.5"}}))

    # Then the bound is theirs
    assert (by_steps.bound.requests, by_steps.bound.output_tokens, by_steps.caps) == (4, 28, ("steps_max",))
    assert (by_calls.bound.model_calls, by_calls.bound.output_tokens) == (3, 21)
    assert by_calls.caps == ("budget.model_calls",)
    assert (by_cost.bound.cost, by_cost.caps) == ({"USD": Decimal("0.5")}, ("budget.cost",))
    assert by_steps.needed.requests == 10


def test_a_route_costs_its_dearest_way_and_its_classifiers() -> None:
    # Given a route that a model chooses, and another that expressions do
    cases = [
        {"case": "short", "do": a_model("brief", prompt="a", max_tokens=3, retry=ONCE)},
        {"case": "long", "do": a_model("essay", prompt="a", max_tokens=90, retry=ONCE)},
    ]
    classify = {"model": "small", "prompt": "which?", "max_tokens": 5, "retry": ONCE, "min_confidence": 0.5}
    chosen = {"id": "way", "route": cases, "classify": {**classify, "escalate": "small"}}
    plain = {"id": "way", "route": [{**case, "when": "true"} for case in cases]}

    # Then
    assert worst_case(of(plain)).bound.output_tokens == 90
    assert worst_case(of(chosen)).bound.output_tokens == 90 + 5 + 5
    assert worst_case(of(chosen)).bound.model_calls == 3


@pytest.mark.parametrize(
    ("schema", "size_bytes"),
    [
        ({"type": "boolean"}, 8),
        ({"type": "string", "maxLength": 3}, 38),
        ({"type": "string"}, None),
        ({"enum": ["a", "bill"]}, 14),
        ({"type": "array", "maxItems": 2, "items": {"type": "boolean"}}, 40),
        ({"type": "array", "items": {"type": "boolean"}}, None),
        ({"type": "object", "additionalProperties": False, "properties": {"ab": {"type": "null"}}}, 26),
        ({"type": "object", "properties": {"a": {"type": "null"}}}, None),
        ({"type": ["null", "string"]}, None),
        ({}, None),
        (None, None),
    ],
)
def test_a_value_is_as_large_as_its_schema_lets_it(schema: dict[str, Any] | None, size_bytes: int | None) -> None:
    assert value_bytes(schema) == size_bytes


def test_a_prompt_that_no_schema_bounds_is_named() -> None:
    # Given a prompt with a task's output, and one with a filter
    do = a_chain(
        a_task("read"), a_model("one", prompt="{{ read }}"), a_model("two", prompt="{{ input.items | length }}")
    )

    # Then the engine's limit bounds both
    assert worst_case(of(do)).bound.unbounded == frozenset({"one", "two"})


def warned(definition: Definition) -> list[str]:
    """The warnings of a definition."""
    return [f"{each.path}: {each.message}" for each in advice(definition, worst_case(definition))]


def test_what_is_well_made_is_not_warned_of() -> None:
    # Given caps, an idempotent tool, a prompt of one item, two routes
    inner = a_chain(a_tool("read", idempotent=True), a_model("say", prompt="{{ item }}"))

    assert warned(a_definition(a_map(inner, items_max=5), deadline_seconds=3_600)) == []


def test_each_warning_is_told_where_it_stands() -> None:
    # Given a workflow that does all that is warned of
    do = a_chain(
        a_map(a_chain(a_tool("send"), a_model("say", prompt="{{ input.items }}"), step_id="inner")),
        a_model("sum_up", prompt="{{ each }}"),
    )
    definition = a_definition(do, tiers={"small": [{"pool": "small", "model": "only"}]}, steps_max=10_000)

    # When its warnings are told
    told = "\n".join(warned(definition))

    # Then each is there
    for text in (
        "$.do.chain[0].parallel: `each` goes over up to 1000 items, because nothing lowers the default",
        "$.deadline_seconds: the deadline of 3600 s is shorter than",
        "$.tiers.small: the tier `small` has one route",
        "$.do.chain[0].parallel.do.chain[0].retry: `send` may call files.read 3 times, and it is not marked idempotent",
        "$.do.chain[0].parallel.do.chain[1].prompt: the prompt of `say` holds all of `input.items`, for each",
        "$.do.chain[1].prompt: the prompt of `sum_up` grows with every item of `each`",
    ):
        assert text in told
    many = a_definition(a_map(a_model("say"), items_max=9_000))
    assert any("only the default of steps_max stops it" in text for text in warned(many))


def test_sleeps_are_drawn_with_their_time() -> None:
    naps = [60, "{{ input.wait }}", {"until": "{{ input.at }}"}]
    blocks = [{"id": f"nap{index}", "sleep": nap} for index, nap in enumerate(naps)]

    parts = [part for _, part in drawn(a_definition(a_chain(*blocks))).inside]

    assert [part.detail for part in parts] == ["60 s", "{{ input.wait }} s", "until {{ input.at }}"]


def test_votes_and_quorums_are_drawn_with_what_decides() -> None:
    jury = {"id": "jury", "parallel": {"vote": {"do": a_model("judge"), "by": "output | upper"}}}
    some = {"id": "some", "parallel": {"sections": [a_task("x"), a_task("y")], "join": {"quorum": 1}}}

    parts = [part for _, part in drawn(a_definition(a_chain(jury, some))).inside]

    assert [part.detail for part in parts] == ["vote of 3 by output | upper, 2 must agree", "sections, quorum of 1"]
    assert [part.flow for part in parts] == ["loop", "side_by_side"]


def test_a_definition_is_drawn_as_a_tree_and_as_a_flowchart() -> None:
    # Given each way in which blocks stand in each other
    do = a_chain(
        {"id": "way", "route": [{"case": "a", "when": 'input.x < 1 and "|"', "do": a_task("end")}]},
        {"id": "both", "parallel": {"sections": [a_task("left"), a_tool("right")]}},
        a_map(a_model("say")),
        {"id": "better", "refine": {"generate": a_task("draft"), "score": "1"}},
        {"id": "gate", "check": "true"},
    )
    definition = a_definition(do)

    # When it is drawn
    tree, chart = drawn(definition), mermaid(definition).splitlines()

    # Then the tree has everything, and the flowchart leads from start to end
    assert [part.id for _, part in tree.inside] == ["way", "both", "each", "better", "gate"]
    assert [part.flow for _, part in tree.inside] == ["choice", "side_by_side", "loop", "loop", "step"]
    assert tree.plain()["inside"][0]["inside"][0]["label"] == 'a: input.x < 1 and "|"'
    edges = [line.strip() for line in chart if "-->" in line]
    assert edges[:4] == [
        "s_way -->|a: input.x #lt; 1 and #quot;#124;#quot;| s_end",
        "s_both --> s_left",
        "s_both --> s_right",
        "s_left --> s_both_joined",
    ]
    for edge in ("s_end --> s_both", "s_way --> s_both", "s_both_joined --> s_each", "s_each --> s_better"):
        assert edge in edges
    assert edges[-2:] == ["start --> s_way", "s_gate --> finish"]
    assert all(line.count('"') in (0, 2) for line in chart)
