"""Owns the proof that no template can change or call what it is given."""

import contextlib
import copy
import itertools
from typing import Any

import pytest

from penstock.workflow.allowed import FUNCTIONS
from penstock.workflow.expressions import ExpressionError, compile_expression, compile_text, compile_value

WORDS = ["and", "or", "not", "in", "is", "if", "else", "elif", "set", "for", "filter", "recursive", "with", "f", "loop"]
BINDINGS = [
    "{{% set {word} = input.update %}}",
    "{{% for {word} in [input.update] %}}",
    "{{% with {word} = input.update %}}",
    "{{% set x, {word} = [1, input.update] %}}",
]
CALLS = [
    "{{{{ {word}({{'added': 1}}) }}}}",
    "{{{{ 1 + {word}({{'added': 1}}) }}}}",
    "{{{{ [1, {word}({{'added': 1}})] }}}}",
    "{{{{ 1 if {word}({{'added': 1}}) else 2 }}}}",
    "{{{{ 1 if 0 else {word}({{'added': 1}}) }}}}",
    "{{{{ {{'a': {word}({{'added': 1}})}} }}}}",
    "{{{{ not {word}({{'added': 1}}) }}}}",
    "{{{{ 1 not {word} ({{'added': 1}}) }}}}",
    "{{{{ 1 ~ {word} ({{'added': 1}}) }}}}",
    "{{{{ (1, {word} ({{'added': 1}})) }}}}",
    "{{% if {word}({{'added': 1}}) %}}{{% endif %}}",
    "{{% for y in {word}({{'added': 1}}) %}}{{% endfor %}}",
    "{{% set z = {word}({{'added': 1}}) %}}",
]
ENDINGS = ["", "{% endfor %}", "{% endwith %}"]


@pytest.mark.parametrize("word", [*WORDS, *sorted(FUNCTIONS)])
def test_no_word_can_be_bound_to_a_method_and_called(word: str) -> None:
    """Guard: MiniJinja reserves next to no words, so every one of them is tried as a variable."""
    for binding, call, ending in itertools.product(BINDINGS, CALLS, ENDINGS):
        given: dict[str, Any] = {"input": {"text": "kept"}}
        source = binding.format(word=word) + call.format(word=word) + ending
        with contextlib.suppress(ExpressionError):
            compile_text(source)(given.__getitem__)
        assert given == {"input": {"text": "kept"}}, source


@pytest.mark.parametrize(
    "source",
    [
        "{{ input.update({'added': 1}) }}",
        "{{ input['update']({'added': 1}) }}",
        "{{ (input.update)({'added': 1}) }}",
        "{{ (input | attr('update'))({'added': 1}) }}",
        "{{ {'a': {}}.update({'added': 1}) }}",
        "don't {{ input.update({'added': 1}) }} can't",
        "{% raw %}' {{ {% endraw %}{{ input.update({'added': 1}) }}",
        "{# ' #}{{ input.update({'added': 1}) }}",
        "{{ '}}' }}{{ input.update({'added': 1}) }}",
        "{%- call input.update({'added': 1}) %}{% endcall %}",
        "{% macro range(x) %}{% endmacro %}{{ input.clear() }}",
        "{{ input.clear ( ) }}",
        "{% filter upper %}{{ input.clear() }}{% endfilter %}",
    ],
)
def test_a_method_of_a_value_cannot_be_called(source: str) -> None:
    given: dict[str, Any] = {"input": {"text": "kept"}}

    with pytest.raises(ExpressionError, match=r"cannot be called|is a function"):
        compile_value(source)(given.__getitem__)

    assert given == {"input": {"text": "kept"}}


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("input.n is divisibleby(2)", True),
        ("input.n is not divisibleby(3)", True),
        ("not (input.n > 3)", False),
        ("input.n > 3 and not (input.n > 5)", True),
        ("input.n in (3, 4)", True),
        ("input.n not in (3, 4)", False),
        ("1 if (input.n) else (2)", 1),
        ("input.text | replace('a', 'b') | upper", "B"),
        ("range(3) | map('string') | list", ["0", "1", "2"]),
        ("[input.n, (1, 2)]", [4, [1, 2]]),
        ("dict(a=1)", {"a": 1}),
        ("{'a': {'b': input.n}}", {"a": {"b": 4}}),
        ("input.dict", 7),
    ],
)
def test_what_calls_nothing_of_the_values_is_allowed(source: str, value: Any) -> None:
    given = {"input": {"n": 4, "text": "a", "dict": 7}}
    before = copy.deepcopy(given)

    assert compile_expression(source)(given.__getitem__) == value
    assert given == before


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{% if (input.n) %}yes{% elif (input.n) %}no{% endif %}", "yes"),
        ("{% for x in (1, 2) %}{{ x }}{% endfor %}", "12"),
        ("{% set ns = namespace(n=0) %}{% for x in range(3) %}{% set ns.n = ns.n + x %}{% endfor %}{{ ns.n }}", "3"),
        ("{% filter replace('a', 'b') %}aa{% endfilter %}", "bb"),
        ("{% raw %}{{ x.update() }}{% endraw %}", "{{ x.update() }}"),
        ("{# input.update() #}ok", "ok"),
        ("text (with) .update() outside of tags{{ '' }}", "text (with) .update() outside of tags"),
    ],
)
def test_tags_and_text_are_no_calls(source: str, text: str) -> None:
    given = {"input": {"n": 4}}

    assert compile_text(source)(given.__getitem__) == text


@pytest.mark.parametrize(
    ("source", "name"), [("input.n | uper", "filter `uper`"), ("input.n is odder", "test `odder`")]
)
def test_an_unknown_filter_or_test_is_an_error_before_it_runs(source: str, name: str) -> None:
    with pytest.raises(ExpressionError, match=name):
        compile_expression(source)
