"""Owns the examples of definitions as they are written: YAML and JSON, sound and not."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.contracts.messages import WorkflowPublished
from penstock.workflow.definition import Definition
from penstock.workflow.notation import NotationError, load, parse, read
from penstock.workflow.parts import ModelStep
from penstock.workflow.publish import published, version_of

SOUND = """\
name: audit
input: {type: object, properties: {text: {type: string}}, required: [text]}
tiers:
  small: [{pool: small, model: smollm2-135m}]
do:
  id: main
  chain:
    - id: find
      task: tasks.find
      retry: {attempts: 2}
      input: {path: "{{ input.text }}", yes: on, day: 2026-01-01, octal: 010, time: 1:30, half: 0.5, none: ~}
    - id: say
      model: small
      prompt: |
        Say {{ find }}.
    - id: pick
      route:
        - case: long
          when: say | length > 10
          do: {id: cut, task: tasks.cut}
      otherwise: {id: keep, tool: files.write}
    - id: docs
      parallel:
        map: "[1, 2]"
        do: {id: each, task: tasks.each}
"""


def said(text: str) -> list[str]:
    """The faults of a text, as people read them."""
    return [str(fault) for fault in read(text).faults]


def test_a_definition_is_read_as_json_would_be() -> None:
    definition = load(SOUND)

    assert definition.name == "audit"
    (find, say, _, _) = definition.model_dump(by_alias=True)["do"]["chain"]
    assert find["input"] == {
        "path": "{{ input.text }}",
        "yes": "on",
        "day": "2026-01-01",
        "octal": 10,
        "time": "1:30",
        "half": 0.5,
        "none": None,
    }
    assert say["prompt"] == "Say {{ find }}.\n"
    assert isinstance(definition.do.chain[1], ModelStep)  # type: ignore[union-attr]  # a chain, as SOUND says


def test_json_is_yaml() -> None:
    body = load(SOUND).model_dump(mode="json")

    assert load(json.dumps(body, indent=2)) == load(SOUND)
    assert parse(body).definition == load(SOUND)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("task: tasks.find", "taks: a.b", "line 8: $.do.chain[0]: this block has no kind; it needs exactly one of"),
        ("task: tasks.find", "taks: a.b", "(did you mean `task`?)"),
        (
            "retry: {attempts",
            "retry: {attempt",
            "line 10: $.do.chain[0].retry.attempt: there is no field `attempt` here",
        ),
        ("retry: {attempts", "retry: {attempt", "(did you mean `attempts`?)"),
        (
            "      retry:",
            "      retries: 3\n      retry:",
            "line 10: $.do.chain[0].retries: there is no field `retries`",
        ),
        (
            "attempts: 2",
            "attempts: 99",
            "line 10: $.do.chain[0].retry.attempts: Input should be less than or equal to 20",
        ),
        (
            "          when: say | length > 10\n",
            "",
            "line 18: $.do.chain[2].route[0].when: the field `when` is missing (or give the route a `classify`",
        ),
        (
            "otherwise:",
            "classify: {modle: small}\n      otherwise:",
            "$.do.chain[2].classify.modle: there is no field `modle`",
        ),
        ("when:", "wen:", "line 19: $.do.chain[2].route[0].wen: there is no field `wen` here (did you mean `when`?)"),
        ("tool: files.write", "tool: files.write, task: a.b", "this block has `tool` and `task`; it needs exactly one"),
        (
            "map:",
            "mpa:",
            "line 23: $.do.chain[3].parallel: this block has no kind; it needs exactly one of `sections`, `map`,",
        ),
        (
            'map: "[1, 2]"',
            'map: "[1, 2]"\n        join: most',
            "$.do.chain[3].parallel.join: a join is `all`, `best_effort` or `{quorum: n}`",
        ),
        ('map: "[1, 2]"', 'map: "[1, 2]"\n        join: 2', "line 25: $.do.chain[3].parallel.join: a join is `all`,"),
        (
            'map: "[1, 2]"',
            'map: "[1, 2]"\n        join: {quorm: 2}',
            "$.do.chain[3].parallel.join.quorm: there is no field `quorm` here (did you mean `quorum`?)",
        ),
        (
            'map: "[1, 2]"',
            'map: "[1, 2]"\n        join: {quorum: 0}',
            "$.do.chain[3].parallel.join.quorum: Input should be",
        ),
        (
            '        map: "[1, 2]"\n        do: {id: each, task: tasks.each}\n',
            "        vote: {do: {id: each, task: tasks.each}, vots: 3}\n",
            "$.do.chain[3].parallel.vote.vots: there is no field `vots` here (did you mean `votes`?)",
        ),
        (
            '        map: "[1, 2]"\n        do: {id: each, task: tasks.each}\n',
            "        vote: {do: {id: each, taks: tasks.each}}\n",
            "$.do.chain[3].parallel.vote.do: this block has no kind",
        ),
        (
            "task: tasks.find",
            "sleep: [1]",
            "line 9: $.do.chain[0].sleep: a sleep is seconds, a template that gives seconds",
        ),
        ("task: tasks.find", "sleep: true", "line 9: $.do.chain[0].sleep: a sleep is seconds"),
        ("task: tasks.find", "sleep: -1", "$.do.chain[0].sleep: Input should be greater than or equal to 0"),
        (
            "task: tasks.find",
            "sleep: {untill: x}",
            "$.do.chain[0].sleep.untill: there is no field `untill` here (did you",
        ),
        ("name: audit", "name: My Audit", "line 1: $.name: `My Audit` does not match"),
        ("name: audit", "names: audit", "line 1: $.names: there is no field `names` here (did you mean `name`?)"),
        (
            "model: smollm2-135m",
            "modl: x",
            "line 4: $.tiers.small[0].modl: there is no field `modl` here (did you mean",
        ),
        ("  small:", "  Small:", "line 4: $.tiers.Small: `Small` does not match"),
        ("model: small\n", "model: smal\n", "line 13: $.do.chain[1].model: there is no tier `smal` (did you mean"),
        (
            "{{ find }}",
            "{{ fnd }}",
            "line 15: $.do.chain[1].prompt: nothing is called `fnd` here (did you mean `find`?)",
        ),
        (
            "input.text",
            "input.txt",
            "line 11: $.do.chain[0].input.path: `input` has no field `txt` in its schema (did you",
        ),
        (
            "do: {id: cut, task: tasks.cut}",
            "do: 7",
            "$.do.chain[2].route[0].do: a block is an object with exactly one of",
        ),
        ("name: audit", "name: audit\nname: b", "line 2: $: not YAML: the key `name` stands twice"),
        ("name: audit", "name: [audit", "line "),
        ("name: audit", "name: !!python/name:os.system x", "is not a JSON value"),
        ("attempts: 2", "attempts: 1e999", "is not a JSON value"),
        ("attempts: 2", f"attempts: {'9' * 5000}", "is not a JSON value"),
    ],
)
def test_a_fault_says_its_line_its_path_and_what_was_meant(old: str, new: str, fault: str) -> None:
    faults = said(SOUND.replace(old, new, 1))

    assert any(fault in text for text in faults), faults


@pytest.mark.parametrize(
    "text", ["", "7", "- 1", "text", "~", "a: &a [*a]", "a: " + "[" * 100_000, "- " * 5000, "\t", "{}: 1", "\x00"]
)
def test_what_is_no_definition_at_all_is_a_fault(text: str) -> None:
    assert read(text).definition is None
    assert said(text)


def test_aliases_that_make_a_small_text_huge_are_refused() -> None:
    lines = ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]"] + [
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)
    ]

    assert "more than 100000 values" in said("\n".join(lines))[0]


def test_a_text_that_is_too_long_is_refused() -> None:
    assert "longer than" in said("a" * 200_000)[0]


def test_load_raises_with_every_fault() -> None:
    with pytest.raises(NotationError) as error:
        load(SOUND.replace("model: small\n", "model: smal\n").replace("input.text", "input.txt"))

    assert len(error.value.faults) == 2
    assert "line 13" in str(error.value)


@given(st.text(max_size=60) | st.text(alphabet="{}[]:- \n&*!|>#'\"abc01", max_size=60))
def test_no_text_breaks_the_reader(text: str) -> None:
    document = read(text)

    assert document.definition is None
    assert document.faults


def test_a_version_is_that_of_the_content() -> None:
    definition = load(SOUND)
    moved = load(json.dumps(dict(reversed(definition.model_dump(mode="json").items()))))

    assert len(version_of(definition)) == 12
    assert version_of(moved) == version_of(definition)
    assert version_of(load(SOUND + "depth_max: 8\n")) == version_of(definition)  # the default, written out
    assert version_of(load(SOUND.replace("Say", "Tell"))) != version_of(definition)
    assert version_of(load(SOUND + "version: v7\n")) == "v7"


def test_the_order_of_a_schemas_properties_is_content() -> None:
    # A model under guided decoding answers in this order: a reason before a verdict is another workflow than after.
    step = "{id: judge, model: small, prompt: Judge., output_schema: {type: object, properties: {%s}}}"
    text = "name: judge\ntiers: {small: [{pool: small, model: m}]}\ndo: " + step
    first, second = load(text % "why: {}, kind: {}"), load(text % "kind: {}, why: {}")

    assert version_of(first) != version_of(second)
    body = WorkflowPublished.model_validate_json(published(first, datetime(2026, 1, 1, tzinfo=UTC)).to_json())
    assert list(body.definition["do"]["output_schema"]["properties"]) == ["why", "kind"]


def test_what_is_published_comes_back_as_it_was() -> None:
    definition = load(SOUND)

    message = published(definition, datetime(2026, 1, 1, tzinfo=UTC))
    heard = WorkflowPublished.model_validate_json(message.to_json())

    assert (heard.name, heard.version) == ("audit", version_of(definition))
    assert Definition.model_validate(heard.definition) == definition.model_copy(update={"version": heard.version})
