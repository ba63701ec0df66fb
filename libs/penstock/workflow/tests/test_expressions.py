"""Owns the examples of the expression language."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.workflow.expressions import (
    TEXT_CHARACTERS_MAX,
    Compiled,
    ExpressionError,
    compile_expression,
    compile_text,
    compile_value,
)

SCOPE: dict[str, Any] = {
    "input": {"text": "hi", "n": 3, "half": 0.5, "none": None, "list": [1, {"a": "b"}], "tag": "<ü>"},
    "find": {"path": "/tmp"},
}


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("plain", "plain"),
        ("{{ input }}", SCOPE["input"]),
        (" {{ input.list }} ", [1, {"a": "b"}]),
        ("{{ input.list[1].a }}", "b"),
        ("{{ input.n }}", 3),
        ("{{ input.n }}!", "3!"),
        ("{{ input.none }}", None),
        ("{{ input.n + 1 }}", 4),
        ("{{- input.text -}}", "hi"),
        ("{{ input.text }} from {{ find.path }}\n", "hi from /tmp"),
        ("{{ input.half }} {{ input.none }} {{ input.list }}", "0.5 None [1, {'a': 'b'}]"),
        ("{{ input.missing | default('nothing') }}", "nothing"),
        ("{{ input.tag | tojson }}", '"<ü>"'),
        ("{{ find.path[:2] }}… [a:b]", "/t… [a:b]"),
        ("{{ {'a': (1, input.n)} }}", {"a": [1, 3]}),
        ({"a": ["{{ input.n }}", {"b": "{{ find.path }}/x"}], "c": 1}, {"a": [3, {"b": "/tmp/x"}], "c": 1}),
    ],
)
def test_a_template_stands_for(template: Any, value: Any) -> None:
    assert compile_value(template)(SCOPE.__getitem__) == value


def test_a_value_without_expressions_costs_nothing() -> None:
    value = {"a": [1, "b", {"c": None}]}
    compiled = compile_value(value)

    assert compiled.evaluate is None
    assert compiled(SCOPE.__getitem__) is value


def test_a_value_with_expressions_is_made_anew_each_time() -> None:
    template = {"kept": {"as": "it is"}, "moved": "{{ input.n }}"}
    compiled = compile_value(template)

    first = compiled(SCOPE.__getitem__)
    first["moved"] = "changed"

    assert compiled(SCOPE.__getitem__) == {"kept": {"as": "it is"}, "moved": 3}
    assert template["moved"] == "{{ input.n }}"


@pytest.mark.parametrize(
    ("compiler", "source", "says"),
    [
        (
            compile_value,
            "{{ input.txt }}",
            "`input.txt` is not defined: there is no field `txt` (there are: half, list",
        ),
        (compile_value, "{{ nothing }}", "nothing is called `nothing` here"),
        (compile_text, "a {{ nothing }}", "`a {{ nothing }}`: nothing is called `nothing` here"),
        (compile_value, "{{ input.list[7] }}", "a list of 2 has no `7`"),
        (compile_value, "{{ input.none.x }}", "null has no field `x`"),
        (compile_value, "{{ input.text.x }}", "str has no field `x`"),
        (compile_value, "{{ input['txt'] }}", "`input['txt']` is not defined"),
        (compile_text, "{{ input.items | upper }}{% if 1 %}{% endif %}", ""),
        (compile_value, "{{ input.txt | upper }}", "`input.txt` is undefined"),
        (compile_value, "{{ input.txt ~ 'a' }}", "undefined"),
        (compile_value, "{{ 1e400 }}", "not a JSON number"),
        (compile_value, "{{ 2 ** 80 }}", "not a JSON value"),
        (compile_value, "{{ input.update }}", "there is no field `update`"),
        (compile_value, "{{ (input)['update'] }}", "not a JSON value"),
        (compile_expression, "input.n / 0", "unable to calculate"),
        (compile_text, "{% for a in range(99999) %}{% for b in range(99) %}{% endfor %}{% endfor %}", "instructions"),
        (compile_expression, "('a' * 9999) | replace('a', 'b' * 9999)", str(TEXT_CHARACTERS_MAX)),
    ],
)
def test_what_cannot_be_evaluated_says_why(compiler: Callable[[str], Compiled], source: str, says: str) -> None:
    compiled = compiler(source)

    if says:
        with pytest.raises(ExpressionError) as error:
            compiled(SCOPE.__getitem__)
        assert says in str(error.value)


@pytest.mark.parametrize("source", ["{{ 1 + }}", "{{ input.text", "{% if 1 %}", "{{ a }} {{ b ", "{% for %}"])
def test_what_does_not_parse_does_not_compile(source: str) -> None:
    with pytest.raises(ExpressionError):
        compile_text(source)


def test_the_place_of_a_broken_template_inside_a_value_is_known() -> None:
    with pytest.raises(ExpressionError) as error:
        compile_value({"a": [1, {"b": "{{ 1 + }}"}]})

    assert error.value.where == ("a", 1, "b")


@pytest.mark.parametrize(
    ("template", "references"),
    [
        ("{{ a.b[:3] }}", ["a.b"]),
        ("{{ a[1:][0].b }} of {{ c[d.e:f] }}", ["a", "c", "d.e", "f"]),
        ("[a:b] {{ {'a': [{'b': 1}]} }}", []),
    ],
)
def test_what_is_sliced_is_a_reference(template: str, references: list[str]) -> None:
    assert [reference.dotted for reference in compile_text(template).references] == references


def test_references_are_as_dotted_as_they_are_known() -> None:
    compiled = compile_value(
        {"x": "{{ a.b.c }} {{ d['e'] }}", "y": ["{% for i in l.m %}{{ i.z }}{% endfor %}{{ range(2) }}"]}
    )

    assert [(reference.where, reference.dotted) for reference in compiled.references] == [
        (("x",), "a.b.c"),
        (("x",), "d"),
        (("y", 0), "l.m"),
    ]
    assert compiled.references[0].name == "a"


def test_a_value_that_is_nested_without_end_is_refused() -> None:
    value: Any = "x"
    for _ in range(100):
        value = [value]

    with pytest.raises(ExpressionError, match="nested deeper than 64"):
        compile_value(value)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_any_value_goes_through_an_expression_as_it_is(value: Any) -> None:
    scope = {"input": {"value": value}}

    assert compile_expression("input.value")(scope.__getitem__) == value
    # The same through MiniJinja itself.
    assert compile_expression("input['value']")(scope.__getitem__) == value


@given(st.text(), st.text())
def test_text_around_a_plain_path_is_what_minijinja_makes_of_it(before: str, value: str) -> None:
    """The shortcut for plain paths must not differ from the engine."""
    scope = {"a": {"b": value}}
    source = before.replace("{", "(") + "{{ a.b }}"

    assert compile_text(source)(scope.__getitem__) == compile_text(source + "{% if 1 %}{% endif %}")(scope.__getitem__)


@given(st.text(alphabet="{}%#-ab .|'\"()[]\n\\", max_size=40))
def test_whatever_text_is_a_template_or_refused(source: str) -> None:
    try:
        compiled = compile_value(source)
        compiled({"a": {"b": 1}, "b": "x"}.__getitem__)
    except ExpressionError:
        pass
