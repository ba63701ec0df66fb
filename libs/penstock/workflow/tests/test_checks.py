"""Owns the examples of faults that are found before a workflow runs."""

from typing import Any

import pytest

from penstock.testkit.builders import a_chain, a_child_run, a_definition, a_model, a_task, an_embedding
from penstock.workflow.checks import check
from penstock.workflow.checks.checker import BLOCKS_MAX, DEPTH_MAX

DOCUMENT = {
    "type": "object",
    "properties": {"path": {"type": "string"}, "text": {"type": "string"}},
    "required": ["path", "text"],
}
INPUT = {
    "type": "object",
    "required": ["documents", "title"],
    "properties": {
        "documents": {"type": "array", "items": {"$ref": "#/$defs/document"}, "minItems": 1},
        "title": {"type": "string"},
    },
    "$defs": {"document": DOCUMENT},
}


def faults(do: dict[str, Any], **fields: Any) -> list[tuple[str, str]]:
    """The faults of a definition: path and message with hint."""
    return [
        (fault.path, f"{fault.message} ({fault.hint})")
        for fault in check(a_definition(do, **{"input": INPUT, **fields}))
    ]


def fault_of(do: dict[str, Any], **fields: Any) -> tuple[str, str]:
    """Its only fault."""
    (only,) = faults(do, **fields)
    return only


def a_map(over: str, do: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A map block `docs`."""
    return {"id": "docs", "parallel": {"map": over, "do": do, **fields}}


def a_vote(**fields: Any) -> dict[str, Any]:
    """A vote block `jury` of a model step."""
    return {"id": "jury", "parallel": {"vote": {"do": a_model("judge"), **fields}}}


def a_classified(case: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """A route `r` of one case that a model decides."""
    ways = [{"case": "x", "do": a_task("a"), **(case or {})}]
    return {"id": "r", "route": ways, "classify": {"model": "small", "prompt": "Which?", **fields}}


def test_a_sound_definition_has_no_faults() -> None:
    kind = {"type": "object", "properties": {"kind": {"type": "string"}}, "required": ["kind"]}
    each = a_chain(
        a_task("read", input={"path": "{{ item.path }}", "n": "{{ index }}"}, output_schema=DOCUMENT),
        a_model("classify", prompt="{{ read.text }}", output_schema=kind),
        {
            "id": "look",
            "route": [
                {"case": "odd", "when": "classify.kind != 'mit'", "do": a_task("again", input="{{ read.text }}")}
            ],
            "otherwise": a_task("done"),
        },
        step_id="each",
        output={"kind": "{{ classify.kind }}", "look": "{{ look }}"},
    )
    join = a_task("join", input="{{ docs[0].kind }} {{ run.id }} {{ run.labels.team }}")
    assert faults(a_chain(a_map("input.documents", each), join)) == []


@pytest.mark.parametrize(
    ("do", "path", "says"),
    [
        (
            a_task("a", input="{{ input.titel }}"),
            "$.do.input",
            "no field `titel` in its schema (did you mean `title`?)",
        ),
        (
            a_task("a", input={"x": ["{{ inptu }}"]}),
            "$.do.input.x[0]",
            "nothing is called `inptu` here (did you mean `input`?)",
        ),
        (a_task("a", input="{{ input.title.x }}"), "$.do.input", "`input.title` is a string and has no field `x`"),
        (a_task("a", input="{{ input.documents.path }}"), "$.do.input", "`input.documents` is a list"),
        (a_task("a", input="{{ item }}"), "$.do.input", "`item` stands for something only inside a map"),
        (
            a_task("a", input="{{ run.idd }}"),
            "$.do.input",
            "`run` has no field `idd` in its schema (did you mean `id`?)",
        ),
        (a_task("a", input="{{ 1 + }}"), "$.do.input", "unexpected end of variable block"),
        (a_task("a", input="{{ input.title | uper }}"), "$.do.input", "there is no filter `uper`"),
        (a_task("a", output_schema={"type": "objct"}), "$.do.output_schema", "not a JSON Schema"),
        (
            a_chain(a_task("a", output_schema={"type": 7}), a_map("a", a_task("b"))),
            "$.do.chain[0].output_schema",
            "not a JSON Schema",
        ),
        (a_task("a", output_schema={"$ref": "https://example.org/x"}), "$.do.output_schema", "not a JSON Schema"),
        (
            a_task("a", undo={"task": "un.a", "input": "{{ outptu }}"}),
            "$.do.undo.input",
            "nothing is called `outptu` here (did you mean `output`?)",
        ),
        (
            a_task("a", output_schema=DOCUMENT, undo={"tool": "files.remove", "arguments": {"p": "{{ output.pth }}"}}),
            "$.do.undo.arguments.p",
            "`output` has no field `pth` in its schema (did you mean `path`?)",
        ),
        (a_task("a", input="{{ output }}", undo={"task": "un.a"}), "$.do.input", "nothing is called `output` here"),
        (a_child_run("child", input="{{ inptu }}"), "$.do.input", "nothing is called `inptu` here"),
        (
            a_chain(a_child_run("child", wait=False), a_task("next", input="{{ child.output }}")),
            "$.do.chain[1].input",
            "`child` has no field `output` in its schema",
        ),
        (
            a_child_run("child", wait=False, output_schema={"type": "object"}),
            "$.do.output_schema",
            "a run that is not waited for has no output",
        ),
        (a_task("run"), "$.do.id", "`run` is a name of the language"),
        (a_task("loop"), "$.do.id", "`loop` is a name of the language"),
        (a_model("a", model="smal"), "$.do.model", "there is no tier `smal` (did you mean `small`?)"),
        (a_model("a", system="{{ x }}"), "$.do.system", "nothing is called `x` here"),
        (a_map("7 + 1", a_task("a")), "$.do.parallel.map", "`7 + 1` is not a list but integer"),
        (a_map("input.title", a_task("a")), "$.do.parallel.map", "`input.title` is not a list but string"),
        (
            a_map("input.documents", a_task("a", input="{{ item.pth }}")),
            "$.do.parallel.do.input",
            "did you mean `path`?",
        ),
        (
            a_chain(a_task("a", input="{{ b }}"), a_task("b")),
            "$.do.chain[0].input",
            "the step `b` has not ended before",
        ),
        (a_chain(a_task("a", input="{{ main }}")), "$.do.chain[0].input", "the step `main` has not ended before"),
        (a_chain(a_task("a"), a_task("a")), "$.do.chain[1].id", "the id `a` is taken"),
        (
            a_chain(a_chain(a_task("a"), step_id="in"), a_task("b", input="{{ a }}")),
            "$.do.chain[1].input",
            "the step `a`",
        ),
        (
            a_chain(a_model("a"), a_task("b", input="{{ a.kind }}")),
            "$.do.chain[1].input",
            "give its step an `output_schema`",
        ),
        (
            a_chain(a_map("input.documents", a_task("a")), a_task("b", input="{{ docs.x }}")),
            "$.do.chain[1].input",
            "is a list",
        ),
        (a_chain(a_task("a"), output={"x": "{{ c }}"}), "$.do.output.x", "nothing is called `c` here"),
        (
            {"id": "all", "parallel": {"sections": [a_task("a"), a_task("b", input="{{ a }}")]}},
            "$.do.parallel.sections[1].input",
            "the step `a` has not ended before",
        ),
        (
            {"id": "r", "route": [{"case": "x", "when": "true", "do": a_task("a")}] * 2},
            "$.do.route[1].case",
            "the case `x` is taken",
        ),
        (
            {"id": "r", "route": [{"case": "otherwise", "when": "1 +", "do": a_task("a")}]},
            "$.do.route[0].case",
            "the case `otherwise` is taken",
        ),
        (a_classified(model="smal"), "$.do.classify.model", "there is no tier `smal`"),
        (a_classified(escalate="smal", min_confidence=0.5), "$.do.classify.escalate", "there is no tier `smal`"),
        (a_classified(prompt="{{ titel }}"), "$.do.classify.prompt", "nothing is called `titel` here"),
        (a_classified(system="{{ titel }}"), "$.do.classify.system", "nothing is called `titel` here"),
        (a_classified(escalate="small"), "$.do.classify.escalate", "with `min_confidence` 0 every choice holds"),
        (a_classified() | {"otherwise": a_task("b")}, "$.do.otherwise", "with `min_confidence` 0 every choice holds"),
        (a_classified({"when": "true"}), "$.do.route[0].when", "so a model chooses the case"),
        (a_classified({"description": "{{ x }}"}), "$.do.route[0].description", "nothing is called `x` here"),
        (a_classified({"do": a_task("escalate")}), "$.do.route[0].do.id", "`escalate` is the classifier's own step"),
        (
            a_classified(min_confidence=0.5) | {"otherwise": a_task("classify")},
            "$.do.otherwise.id",
            "`classify` is the classifier's own step",
        ),
        ({"id": "r", "route": [{"case": "x", "do": a_task("a")}]}, "$.do.route[0].when", "the field `when` is missing"),
        (
            {"id": "all", "parallel": {"sections": [a_task("a"), a_task("b")], "join": {"quorum": 3}}},
            "$.do.parallel.join.quorum",
            "a quorum of 3 cannot be reached: there are 2 sections",
        ),
        (
            a_map("input.documents", a_task("a"), items_max=5, join={"quorum": 6}),
            "$.do.parallel.join.quorum",
            "a quorum of 6 cannot be reached: items_max allows 5",
        ),
        (a_vote(votes=3, agree=4), "$.do.parallel.vote.agree", "4 ballots cannot agree: there are 3 votes"),
        (a_vote(by="outptu"), "$.do.parallel.vote.by", "nothing is called `outptu` here (did you mean `output`?)"),
        (a_vote(by="output.x"), "$.do.parallel.vote.by", "`output` is a string and has no field `x`"),
        (
            a_vote(do=a_task("a", input="{{ item }}")),
            "$.do.parallel.vote.do.input",
            "`item` stands for something only inside a map",
        ),
        (
            a_chain(a_vote(), a_task("b", input="{{ jury.winer }}")),
            "$.do.chain[1].input",
            "`jury` has no field `winer` in its schema (did you mean `winner`?)",
        ),
        ({"id": "s", "sleep": 7_200}, "$.do.sleep", "it sleeps for 7200 s, a run's deadline is 3600 s after its start"),
        ({"id": "s", "sleep": "{{ 60 * 60 }}"}, "$.do.sleep", "it sleeps for 3600 s, a run's deadline is 3600 s"),
        ({"id": "s", "sleep": 60, "sleep_seconds_max": 30}, "$.do.sleep", "its sleep_seconds_max is 30"),
        ({"id": "s", "sleep": "{{ -1 }}"}, "$.do.sleep", "-1 s is less than no time"),
        ({"id": "s", "sleep": "soon"}, "$.do.sleep", "a sleep is a number of seconds, this is string"),
        ({"id": "s", "sleep": "{{ input.title }}"}, "$.do.sleep", "a sleep is a number of seconds, this is"),
        ({"id": "s", "sleep": "{{ titel }}"}, "$.do.sleep", "nothing is called `titel` here"),
        ({"id": "s", "sleep": {"until": "tomorrow"}}, "$.do.sleep.until", "`tomorrow` is not a time in RFC 3339"),
        ({"id": "s", "sleep": {"until": "2026-13-01T00:00:00Z"}}, "$.do.sleep.until", "is not a time: month must be"),
        ({"id": "s", "sleep": {"until": "{{ 7 }}"}}, "$.do.sleep.until", "a time is text in RFC 3339, this is"),
        (a_chain({"id": "s", "sleep": 1}, a_task("a", input="{{ s.x }}")), "$.do.chain[1].input", "`s` is null"),
        ({"id": "g", "check": "input.titel"}, "$.do.check", "no field `titel` in its schema (did you mean `title`?)"),
        ({"id": "g", "check": "input.title >"}, "$.do.check", "unexpected `)`"),
        ({"id": "g", "check": "1 / 'x'"}, "$.do.check", "tried to use / operator"),
        ({"id": "g", "check": "true", "message": "{{ titel }}"}, "$.do.message", "nothing is called `titel` here"),
        (
            a_chain({"id": "g", "check": "input.title"}, a_task("a", input="{{ g.x }}")),
            "$.do.chain[1].input",
            "`g` is a boolean and has no field `x`",
        ),
    ],
)
def test_a_fault_is_named_by_its_path(do: dict[str, Any], path: str, says: str) -> None:
    found = faults(do)

    assert path in [at for at, _ in found]
    assert any(says in message for at, message in found if at == path), found


def test_a_sound_classified_route_has_no_faults() -> None:
    do = a_classified({"description": "{{ input.title }}"}, system="Be brief.", min_confidence=0.5, escalate="small")

    assert faults(a_chain(do | {"otherwise": a_task("b")}, a_task("c", input="{{ r }}"))) == []


def test_a_sleep_may_take_its_time_from_the_scope() -> None:
    for sleep in (30, "{{ 30 }}", {"until": "{{ input.title }}"}, {"until": "2026-01-01T08:00:00+01:00"}):
        assert faults({"id": "s", "sleep": sleep}) == []
    seconds = {"type": "object", "properties": {"seconds": {"type": "integer"}}, "required": ["seconds"]}
    assert faults({"id": "s", "sleep": "{{ input.seconds * 60 }}"}, input=seconds) == []


def test_a_vote_sees_its_index_and_shows_its_winner() -> None:
    kind = {"type": "object", "properties": {"kind": {"type": "string"}}, "required": ["kind"]}
    judge = a_model("judge", prompt="{{ index }}", output_schema=kind)
    after = a_task("after", input="{{ jury.winner.kind }} {{ jury.agree }} {{ jury.ballots }}")

    assert faults(a_chain(a_vote(do=judge, by="output.kind ~ input.title ~ index"), after)) == []
    assert (
        "`jury.winner` has no field `kin`"
        in faults(a_chain(a_vote(do=judge), a_task("b", input="{{ jury.winner.kin }}")))[0][1]
    )


def test_a_case_may_refuse_what_it_stands_for() -> None:
    assert faults({"id": "g", "check": "false", "message": "{{ input.title }} is not taken"}) == []


def test_a_branch_that_a_quorum_may_cancel_may_be_null() -> None:
    kind = {"type": "object", "properties": {"kind": {"type": "string"}}, "required": ["kind"]}
    sections = [a_model("a", output_schema=kind), a_model("b")]
    do = {"id": "all", "parallel": {"sections": sections, "join": {"quorum": 1}}}

    assert faults(a_chain(do, a_task("c", input="{{ all.a.kind if all.a else 'none' }}"))) == []
    assert "`all.a` may be null" in fault_of(a_chain(do, a_task("c", input="{{ all.a.kind }}")))[1]


def test_a_classifier_whose_answer_no_budget_has_room_for_is_a_fault() -> None:
    do = a_classified(max_tokens=500, min_confidence=0.5, escalate="small")

    path, says = fault_of(do, budget={"tokens": 500})

    assert path == "$.do.classify.max_tokens"
    assert "an answer of 500 tokens does not fit a budget of 500" in says


def test_a_branch_that_a_best_effort_may_replace_promises_nothing() -> None:
    do = {"id": "all", "parallel": {"sections": [a_model("a"), a_model("b")], "join": "best_effort"}}

    assert "`all.a` may be a string" in fault_of(a_chain(do, a_task("c", input="{{ all.a.error }}")))[1]
    assert faults(a_chain(do, a_task("c", input="{{ all.a.error.code if all.a.error is defined else '' }}"))) == []
    assert "no field `c`" in fault_of(a_chain(do, a_task("d", input="{{ all.c }}")))[1]


def test_an_open_schema_may_have_other_fields() -> None:
    for schema in ({}, {"type": "object"}, {**INPUT, "additionalProperties": True}, {"anyOf": [DOCUMENT, {}]}):
        assert faults(a_task("a", input="{{ input.anything }}"), input=schema) == []


def test_a_schema_that_is_none_is_a_fault_of_the_input() -> None:
    path, says = fault_of(a_task("a"), input={"type": 7})

    assert path == "$.input"
    assert "not a JSON Schema" in says


def test_nesting_is_bounded() -> None:
    do = a_task("leaf")
    for number in range(DEPTH_MAX):
        do = a_chain(do, step_id=f"c{number}")

    assert f"deeper than {DEPTH_MAX}" in fault_of(do)[1]


def test_the_number_of_blocks_is_bounded() -> None:
    chains = [
        a_chain(*[a_task(f"t{n}_{m}") for m in range(200)], step_id=f"c{n}") for n in range(BLOCKS_MAX // 200 + 1)
    ]

    assert any("more than" in says for _, says in faults(a_chain(*chains)))


def test_references_that_lead_in_circles_or_fan_out_without_end_are_followed_as_far_as_asked() -> None:
    fan = {
        f"d{n}": {
            "properties": {key: {"$ref": f"#/$defs/d{n + 1}"} for key in "abcdefgh"},
            "required": list("abcdefgh"),
        }
        for n in range(40)
    }
    circle = {"properties": {"next": {"$ref": "#/$defs/circle"}}, "required": ["next"]}
    again = {"$ref": "#/$defs/again"}
    schema = {"$ref": "#/$defs/d0", "$defs": {**fan, "d40": {"type": "string"}, "circle": circle, "again": again}}

    assert faults(a_task("a", input="{{ input.a.b.c }}"), input=schema) == []
    assert "`input.a.b` has no field `z`" in fault_of(a_task("a", input="{{ input.a.b.z }}"), input=schema)[1]
    looped = {**schema, "$ref": "#/$defs/circle"}
    assert "no field `nxt`" in fault_of(a_task("a", input="{{ input.next.next.nxt }}"), input=looped)[1]
    assert faults(a_task("a", input="{{ input.x }}"), input={**schema, "$ref": "#/$defs/again"}) == []


def test_what_binds_an_answer_is_one_thing_that_can_be_kept() -> None:
    schema = {"type": "object"}

    assert faults(a_model("m", choices=["yes", "no"], sampling={"top_p": 0.5}, adapter="legal")) == []
    assert faults(a_model("m", regex="[0-9]{4}|none", on_overflow="clamp")) == []
    assert "bound by one of output_schema and regex" in fault_of(a_model("m", output_schema=schema, regex="a"))[1]
    assert fault_of(a_model("m", choices=["yes", "yes"]))[0].endswith("choices")
    for pattern in ("(", "(?=a)a", "(a)\\1", "((a{1000}){1000}){9}"):
        path, message = fault_of(a_model("m", regex=pattern))
        assert path.endswith("regex")
        assert "linear-time" in message


def test_later_blocks_know_the_choices() -> None:
    steps = a_chain(
        a_model("kind", choices=["letter", "invoice"]),
        {"id": "way", "route": [{"case": "a", "when": "kind == 'leter'", "do": a_task("t")}]},
    )

    assert "not among the values" in fault_of(steps)[1]


def test_later_blocks_know_choices_that_a_schema_knows() -> None:
    kinds = {"type": "array", "minItems": 1, "items": {"enum": ["letter", "invoice"]}}
    route = {"id": "way", "route": [{"case": "a", "when": "kind == 'leter'", "do": a_task("t")}]}
    steps = a_chain(a_model("kind", choices="input.kinds"), route)

    (fault,) = check(
        a_definition(steps, input={"type": "object", "properties": {"kinds": kinds}, "required": ["kinds"]})
    )

    assert "did you mean `letter`?" in str(fault)


def test_an_embedding_has_a_vector_for_each_text_that_is_sure_to_be_there() -> None:
    steps = [a_task("read"), an_embedding("two", input=["a", "b"]), an_embedding("some", input="{{ read }}")]
    keep = a_task("keep", input="{{ [two[1], some[0]] }}")

    assert faults(a_chain(*steps, keep)) == []
    assert "may be absent" in fault_of(a_chain(*steps, a_task("keep", input="{{ two[2] }}")))[1]
    assert "no tier `large`" in fault_of(an_embedding("one", embed="large"))[1]


def test_images_are_an_expression_that_can_give_references() -> None:
    assert faults(a_model("m", images="input.documents")) == []
    assert "gives no blob reference" in fault_of(a_model("m", images="input.title"))[1]
    assert "titel" in fault_of(a_model("m", images="input.titel"))[1]
