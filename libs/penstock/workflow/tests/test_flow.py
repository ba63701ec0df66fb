"""Owns the proof that what is worked out about expressions is what happens when they run."""

import contextlib
import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jinja2 import Environment

from penstock.workflow.expressions import ExpressionError, compile_expression, compile_text
from penstock.workflow.flow import templates
from penstock.workflow.shapes import Shape, types_of, union

PAGE = {"type": "object", "properties": {"text": {"type": "string"}, "note": {"type": "string"}}, "required": ["text"]}
SCOPE: dict[str, Shape] = {
    "read": {
        "type": "object",
        "properties": {
            "title": {"type": "string"},
            "kind": {"enum": ["mit", "apache"]},
            "count": {"type": "integer"},
            "page": PAGE,
            "maybe": {"anyOf": [PAGE, {"type": "null"}]},
            "late": PAGE,
            "pages": {"type": "array", "items": PAGE},
            "words": {"type": "array", "items": {"type": "string"}, "minItems": 2},
            "owner": {"type": ["string", "null"]},
        },
        "required": ["title", "kind", "count", "page", "maybe", "pages", "words", "owner"],
        "additionalProperties": False,
    },
    "anything": None,
}


def troubles(source: str, scope: dict[str, Shape] = SCOPE) -> list[str]:
    """What can go wrong in an expression, as people read it."""
    return [f"{each.message} ({each.hint})" for each in templates.of_expression(source, scope)[1]]


@pytest.mark.parametrize(
    "source",
    [
        "read.page.text",
        "read.page.note is defined and read.page.note == 'x'",
        "read.page.note | default('none')",
        "read.maybe.text if read.maybe else ''",
        "read.maybe.text if read.maybe is not none else ''",
        "read.maybe.text if read.maybe != none else ''",
        "'' if read.maybe is none else read.maybe.text",
        "'' if not read.maybe else read.maybe.text",
        "read.maybe and read.maybe.text",
        "read.maybe is none or read.maybe.text == 'x'",
        "not (read.maybe is none or read.maybe.text == 'x')",
        "read.maybe.text | default('')",
        "read.maybe.text is defined and read.maybe.text",
        "read.late.note | default('') if read.late is defined else ''",
        "(read.late | default({'note': 'x'})).note is defined",
        "read.pages[0].text if read.pages else ''",
        "read.pages[0].text if read.pages | length > 0 else ''",
        "(read.pages | first).text if read.pages else ''",
        "read.pages[0] is defined and read.pages[0].text",
        "read.pages | first | default(none)",
        "read.words[1]",
        "([read.title] + read.words)[2] | upper",
        "read.words | last | upper",
        "read.title[:3] ~ read.count",
        "read.owner | default('nobody', true) | length",
        "read.owner == 'me' and read.owner | length",
        "read.owner in ['me', 'you'] and read.owner | length > 1",
        "read.owner is string and read.owner | length",
        "'late' in read and read.late.text",
        "read.kind == 'mit'",
        "read.count > 1 and read.count + 1 < 7",
        "anything.at.all[0] + 1",
        "read.pages | map(attribute='text') | join(', ')",
        "read['page']['text']",
    ],
)
def test_what_is_guarded_is_sound(source: str) -> None:
    assert troubles(source) == []


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("read.page.note", "`read.page.note` may be absent: its schema does not require it (add it to `required`, or"),
        ("read.page.note ~ 'x'", "`read.page.note` may be absent"),
        ("read.page.note == 'x'", "`read.page.note` may be absent"),
        ("read.page.note and 1", "`read.page.note` may be absent"),
        ("read.page.note if read.page.note else ''", "`read.page.note` may be absent"),
        ("read.maybe.text", "`read.maybe` may be null, and then has no field `text` (guard it: `if read.maybe`, "),
        ("read.maybe.text ~ 'x' | default('')", "`read.maybe` may be null"),
        ("read.maybe.text if not read.maybe else ''", "`read.maybe` is null and has no field `text`"),
        ("read.maybe or read.maybe.text", "`read.maybe` is null and has no field `text`"),
        ("read.late.note | default('')", "`read.late` may be absent"),
        ("read.late.note is defined", "`read.late` may be absent"),
        ("read.pages[0].text", "`read.pages[0]` may be absent: the list may have fewer items (add `minItems` to its"),
        ("read.pages | first", "`read.pages` may be empty (add `minItems`"),
        ("read.words[2]", "`read.words[2]` may be absent"),
        ("([read.title] + read.words)[3]", "may be absent: the list may have fewer items"),
        ("read.pages.text", "`read.pages` is a list and has no field `text` (take one item first"),
        ("read.title.x", "`read.title` is a string and has no field `x`"),
        ("read.titel", "`read` has no field `titel` in its schema (did you mean `title`?)"),
        ("read.titel | default('')", "did you mean `title`?"),
        ("read.owner | length", "`read.owner` may be null; `length` needs a list, an object or text (guard it: `if"),
        ("read.count | length", "`read.count` is integer; `length` needs a list"),
        ("read.owner + 'x'", "`read.owner` may be null; `+` needs numbers, text or lists"),
        ("read.title + 1", "`read.title` is string and `1` is integer: `+` cannot take both"),
        ("read.title - 1", "`read.title` is string; `-` needs numbers"),
        ("-read.title", "`read.title` is string; `-` needs a number"),
        ("'a' in read.owner", "`read.owner` may be null; `in` needs a list, an object or text"),
        ("read.title == 3", "`read.title` is string and `3` is integer: never equal"),
        ("read.count < '3'", "`read.count` is integer and `'3'` is string: not comparable"),
        ("read.kind == 'mti'", "'mti' is not among the values it is compared with (did you mean `mit`?)"),
        ("read.kind == 'mit' and read.kind == 'apache'", "'apache' is not among the values"),
        ("read.title if read.count > 1", "there is no value where the condition does not hold (add `else …`)"),
        ("range(read.title)", "`read.title` is string; `range` needs a whole number"),
        ("[read.page.note]", "`read.page.note` may be absent"),
    ],
)
def test_what_can_fail_is_said(source: str, says: str) -> None:
    assert any(says in trouble for trouble in troubles(source)), troubles(source)


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("{% if read.late is defined %}{{ read.late.text }}{% endif %}", []),
        ("{% if read.late is defined %}{% else %}\n{{ read.late.text }}{% endif %}", [2]),
        ("{% for page in read.pages %}{{ page.text }}{{ loop.index }}{% endfor %}", []),
        ("{% for page in read.pages %}\n\n{{ page.note }}{% endfor %}", [3]),
        ("{% for page in read.pages if page.note is defined %}{{ page.note }}{% endfor %}", []),
        ("{% for n in read.count %}{% endfor %}", [1]),
        ("{% for key, value in read | items %}{{ key }}{{ value }}{% endfor %}", []),
        ("{% set page = read.maybe %}{{ page.text }}", [1]),
        ("{% set page = read.maybe %}{% if page %}{{ page.text }}{% endif %}", []),
        ("{% set late = read.late %}{{ late is defined }}", []),
        ("{% set late = read.late %}\n{{ late }}", [2]),
        ("{% with page = read.page %}{{ page.note }}{% endwith %}", [1]),
        ("{% if read.maybe %}{% set x = 1 %}{% else %}{% set x = 'a' %}{% endif %}{{ x + 1 }}", []),
        ("{{ 'a' if read.maybe }}", []),
        ("{{ read.owner }}", []),
        ("{% if read.maybe is none %}{% elif read.maybe.text %}{% endif %}", []),
        ("{% filter upper %}{{ read.page.note }}{% endfilter %}", [1]),
    ],
)
def test_templates_are_followed_statement_by_statement(source: str, wrong: list[int]) -> None:
    assert [trouble.line for trouble in templates.of_text(source, SCOPE)] == wrong


def test_a_template_that_is_not_understood_says_so() -> None:
    with pytest.raises(templates.UnreadableError):
        templates.of_text("{% macro x() %}{% endmacro %}", SCOPE)


@pytest.mark.parametrize(
    ("source", "types"),
    [
        ("read.page", {"object"}),
        ("read.owner", {"null", "string"}),
        ("read.page.note | default(1)", {"string", "integer"}),
        ("read.maybe or 7", {"object", "integer"}),
        ("read.count + 1", {"integer"}),
        ("read.count > 1", {"boolean"}),
        ("[1, 'a']", {"array"}),
        ("{'a': 1}", {"object"}),
        ("read.words | first", {"string"}),
        ("read.pages | map('upper') | list", {"array"}),
        ("read.title | int", set()),
        ("anything.x", set()),
    ],
)
def test_the_type_of_an_expression_is_known(source: str, types: set[str]) -> None:
    assert types_of(templates.of_expression(source, SCOPE)[0]) == types


SUMS = "-2 ** 2; 2 ** 3 ** 2; 10 - 3 - 2; -3 | abs; 10 // 3 * 2; 2 * 3 ~ 'a'; 1 + 2 == 3 and true; 1 or 2 and 0"
WORDS = "not 1 in [2]; 1 in [1] == true; not true or true; 3 is odd and 2 is even; 1 if true else 2 if false else 3"
PLACES = "[1, 2][1]; (1, 2)[0]; {'a': [1]}.a[0]; 'abc'[1:]; 1 < 2 < 3; 'a' ~ 'b' == 'ab'"


@pytest.mark.parametrize("source", f"{SUMS}; {WORDS}; {PLACES}".split("; "))
def test_the_trees_are_those_of_minijinja(source: str) -> None:
    """What an expression is worked out from is Jinja's reading of it; what runs is MiniJinja's."""
    assert compile_expression(source)(SCOPE.__getitem__) == Environment().compile_expression(source)()


@pytest.mark.parametrize(
    "source",
    [
        " and ".join(["read.maybe"] * 300),
        "not (" + " and ".join(["read.maybe"] * 100) + ")",
        " or ".join(["(read.maybe and read.owner)"] * 100),
        "(" * 300 + "read.maybe" + ")" * 300,
        " ~ ".join(["read.title"] * 300),
    ],
)
def test_a_long_condition_is_worked_out_in_time_or_not_at_all(source: str) -> None:
    """Guard: each part of a condition is looked at once, and a tree without end is let through."""
    with contextlib.suppress(templates.UnreadableError):
        templates.of_expression(source, SCOPE)
    assert templates.after(source, SCOPE, holds=False).keys() == SCOPE.keys()


def test_a_type_that_is_made_of_itself_is_unknown() -> None:
    again = {"anyOf": [{"$ref": "#/$defs/again"}, {"$ref": "#/$defs/again"}, {"type": "null"}]}
    shape: Shape = {"$ref": "#/$defs/again", "$defs": {"again": again}}

    assert types_of(shape) == frozenset()
    assert troubles("read.x.y", {"read": shape}) == []


# The properties: random schemas, the values they allow, random expressions over them.

NAMES = ["a", "b"]
LEAVES: list[dict[str, Any]] = [
    {"type": "string"},
    {"type": "integer"},
    {"type": "boolean"},
    {"type": ["string", "null"]},
    {"enum": ["x", "y"]},
]


@st.composite
def schemas(draw: st.DrawFn, depth: int = 2) -> dict[str, Any]:
    """A small schema of objects, lists, text, numbers and null."""
    kind = draw(st.sampled_from(["leaf", "object", "object", "list", "maybe"] if depth else ["leaf"]))
    match kind:
        case "object":
            properties = {name: draw(schemas(depth - 1)) for name in NAMES}
            required = draw(st.lists(st.sampled_from(NAMES), unique=True))
            return {
                "type": "object",
                "properties": properties,
                "required": required,
                "additionalProperties": False,
            }
        case "list":
            return {"type": "array", "items": draw(schemas(0)), "minItems": draw(st.integers(0, 1))}
        case "maybe":
            return {"anyOf": [draw(schemas(depth - 1)), {"type": "null"}]}
        case _:
            return draw(st.sampled_from(LEAVES))


def values(schema: dict[str, Any]) -> list[Any]:
    """Values of every kind that a schema allows."""
    if "anyOf" in schema:
        return [value for branch in schema["anyOf"] for value in values(branch)]
    if "enum" in schema:
        return list(schema["enum"])
    match schema["type"]:
        case "object":
            absent: list[Any] = [...]
            ways = [
                values(inner) + absent * (name not in schema["required"])
                for name, inner in schema["properties"].items()
            ]
            made = [dict(zip(schema["properties"], way, strict=True)) for way in itertools.product(*ways)]
            return [{name: value for name, value in each.items() if value is not ...} for each in made]
        case "array":
            items = values(schema["items"])
            return [[items[0], items[-1]], [items[-1]], *([] if schema["minItems"] else [[]])]
        case kinds:
            samples: dict[str, list[Any]] = {
                "string": ["x", ""],
                "integer": [0, 7],
                "boolean": [True, False],
                "null": [None],
            }
            listed: list[str] = [kinds] if isinstance(kinds, str) else kinds
            return [sample for kind in listed for sample in samples[kind]]


PATHS = ["v", "v.a", "v.b", "v.a.a", "v.a.b", "v.b.a", "v[0]", "v.a[0]", "v.b[0]"]
paths = st.sampled_from(PATHS)
guards = st.builds(
    lambda path, form: form.format(path),
    paths,
    st.sampled_from(
        ["{} is defined", "{}", "{} is not none", "{} is none", "{} == 'x'", "{} is string", "{} is mapping"]
    )
    | st.sampled_from(["{} is sequence", "{} | length > 0", "{} is not defined", "{} in ['x', 'z']", "'a' in {}"]),
)
conditions = st.recursive(
    guards,
    lambda inner: (
        st.builds("({}) and ({})".format, inner, inner)
        | st.builds("({}) or ({})".format, inner, inner)
        | st.builds("not ({})".format, inner)
    ),
    max_leaves=3,
)
uses = st.builds(
    lambda path, form: form.format(path),
    paths,
    st.sampled_from(["{}", "{}", "{} | default('d')", "{} | default('d', true) | length", "{} | length", "{} ~ '!'"])
    | st.sampled_from(
        ["{} + 1", "[{}]", "{{'k': {}}}.k", "{} | first", "({} | first | default('')) ~ ''", "{} | upper"]
    ),
)
expressions = (
    uses
    | conditions
    | st.builds("{} if {} else {}".format, uses, conditions, uses)
    | st.builds("({}) and ({})".format, conditions, uses)
    | st.builds("({}) or ({})".format, conditions, uses)
)
SETTINGS = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))


def failures(source: str, schema: dict[str, Any]) -> list[str]:
    """What an expression says when it is run on every value."""
    compiled = compile_expression(source)
    found = []
    for value in values(schema):
        try:
            compiled({"v": value}.__getitem__)
        except ExpressionError as error:
            found.append(f"{value}: {error}")
    return found


@SETTINGS
@given(schemas(), expressions)
def test_what_is_accepted_never_fails(schema: dict[str, Any], source: str) -> None:
    if not troubles(source, {"v": schema}):
        assert failures(source, schema) == []


@SETTINGS
@given(schemas(), st.lists(paths, min_size=1, max_size=3), uses)
def test_what_is_refused_can_fail(schema: dict[str, Any], guarded: list[str], used: str) -> None:
    """Guards that do not contradict each other, in front of one use: whatever is refused fails for some value."""
    source = " and ".join([*(f"{path} is defined" for path in guarded), f"({used}) ~ ''"])
    found = troubles(source, {"v": schema})
    # Refused though it does not fail: what no value has (it is misspelled), a text's characters, a hole in a list.
    harmless = any(word in str(found) for word in ("no field", "no item", "characters")) or used[0] in "[{"
    if found and not harmless:
        assert failures(source, schema), found


@SETTINGS
@given(schemas(), expressions)
def test_the_types_are_those_of_the_values(schema: dict[str, Any], source: str) -> None:
    shape, wrong = templates.of_expression(source, {"v": schema})
    types = types_of(shape) | ({"integer"} if "number" in types_of(shape) else set())
    if wrong or not types:
        return
    for value in values(schema):
        result = compile_expression(source)({"v": value}.__getitem__)
        assert types_of(union({"enum": [result]})) <= types


@given(schemas(), paths, conditions)
def test_a_template_and_an_expression_agree(schema: dict[str, Any], path: str, condition: str) -> None:
    """The same guard and use, as an expression and as statements."""
    expression = troubles(f"{path} if {condition} else ''", {"v": schema})
    source = "{% if " + condition + " %}{{ " + path + " }}{% endif %}"
    compile_text(source)
    assert [f"{each.message} ({each.hint})" for each in templates.of_text(source, {"v": schema})] == expression


KEYWORDS = ["type", "properties", "required", "items", "anyOf", "enum", "const", "$ref", "$defs", "minItems", "a", "x"]
ODD_SCHEMAS = st.recursive(
    st.sampled_from(["string", "null", True, 1, None, "#/$defs/a"]),
    lambda inner: st.dictionaries(st.sampled_from(KEYWORDS), inner, max_size=4) | st.lists(inner, max_size=3),
    max_leaves=14,
).filter(lambda value: isinstance(value, dict))


@SETTINGS
@given(ODD_SCHEMAS)
def test_what_is_no_schema_breaks_nothing(schema: Any) -> None:
    """Guard: a schema that is none is a fault of its own; what refers to it is still checked."""
    troubles("v.x.a[0] | first ~ v.a", {"v": schema})
    templates.after("v.x == 'a' and v.a | length > 0", {"v": schema}, holds=False)


TOKENS = (
    "{{ }} {% %} if endif for in endfor v .x [0] ( ) | default first is defined not and or 1 'a' ~ - == , [ ] { } set ="
)


@SETTINGS
@given(st.lists(st.sampled_from(TOKENS.split()), max_size=14))
def test_whatever_is_written_is_worked_out_or_let_through(parts: list[str]) -> None:
    for source in ("".join(parts), " ".join(parts)):
        with contextlib.suppress(templates.UnreadableError):
            templates.of_text(source, SCOPE)
        with contextlib.suppress(templates.UnreadableError):
            templates.of_string(source, SCOPE)
