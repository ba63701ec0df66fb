"""Tests of the second look at structured output."""

from typing import Any

import pytest

from penstock.contracts.messages import NextMove, ToolCall, ToolSignature, WorkError
from penstock.contracts.regexes import RegexRefusedError, check_regex
from services.inference.core.structured import (
    SchemaRefusedError,
    answered,
    check_schema,
    checked,
    embedded,
)
from services.inference.tests.scripted import a_request

SCHEMA = {
    "type": "object",
    "properties": {"items": {"type": "array", "items": {"type": "integer"}}},
    "required": ["items"],
}


def test_output_that_fits_is_compact_json() -> None:
    assert checked('{ "items": [1, 2] }', SCHEMA) == b'{"items":[1,2]}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"items": [1', "not JSON"),
        ('{"items": [1, "two"]}', "output.items[1]: "),
        ("{}", 'output: "items" is a required property'),
    ],
)
def test_output_that_misses_asks_for_a_repair_and_names_the_path(text: str, message: str) -> None:
    error = checked(text, SCHEMA)

    assert isinstance(error, WorkError)
    assert (error.code, error.next) == ("output_invalid", NextMove.REPAIR_OUTPUT)
    assert message in error.message


@pytest.mark.parametrize(
    "schema",
    [{"type": "wrong"}, {"$ref": "https://example.invalid/schema.json"}, {"properties": {"a": {"pattern": "("}}}],
)
def test_a_schema_that_cannot_be_used_is_refused_without_asking_anybody(schema: dict[str, Any]) -> None:
    with pytest.raises(SchemaRefusedError):
        check_schema(schema)


CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [ToolSignature(name="weather", parameters=CITY), ToolSignature(name="ask", parameters={})]


def a_call(name: str = "weather", **arguments: Any) -> ToolCall:
    return ToolCall(id="1", name=name, arguments=arguments)


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({}, "any text"),
        ({"choices": ["yes", "no"]}, "no"),
        ({"regex": "a|b+"}, "bb"),
        ({"regex": "[0-9]{4}"}, "2026"),
    ],
)
def test_text_that_was_asked_for_is_json_text(asked: dict[str, Any], text: str) -> None:
    assert answered(text, (), a_request(**asked)) == b'"' + text.encode() + b'"'


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"choices": ["yes", "no"]}, "No"),
        ({"choices": ["yes", "no"]}, "no."),
        ({"regex": "a|b+"}, "abb"),
        ({"regex": "a|b+"}, "bb\n"),
        ({"regex": "[0-9]{4}"}, "١٩٩٩"),
    ],
)
def test_text_that_was_not_asked_for_is_to_be_repaired_whatever_the_engine_promised(
    asked: dict[str, Any], text: str
) -> None:
    error = answered(text, (), a_request(**asked))

    assert isinstance(error, WorkError)
    assert (error.code, error.next) == ("output_invalid", NextMove.REPAIR_OUTPUT)


def test_a_regex_that_would_take_for_ever_elsewhere_is_checked_at_once() -> None:
    error = answered("a" * 5000 + "b", (), a_request(regex="(a+)+"))

    assert isinstance(error, WorkError)


@pytest.mark.parametrize("pattern", ["(", "a)|(b", "(a)\\1", "(?<=a)b", "((x{999}){999}){9}"])
def test_a_regex_that_cannot_be_used_is_refused(pattern: str) -> None:
    with pytest.raises(RegexRefusedError):
        check_regex(pattern)


def test_an_answer_that_calls_tools_need_not_be_what_was_bound() -> None:
    calls = (a_call(city="Bern"), a_call("ask", anything=1))

    assert answered("", calls, a_request(tools=TOOLS, output_schema=SCHEMA)) == b'""'


@pytest.mark.parametrize(
    ("call", "choice", "says"),
    [
        (a_call(city=3), None, "weather.arguments.city"),
        (a_call(), None, '"city" is a required property'),
        (a_call("leap"), None, "there is no tool 'leap'; there is weather, ask"),
        (a_call("ask"), "weather", "`tool_choice` is 'weather'"),
        (a_call("ask"), "none", "`tool_choice` is 'none'"),
    ],
)
def test_a_call_that_misses_its_tool_is_to_be_repaired(call: ToolCall, choice: str | None, says: str) -> None:
    error = answered("", (call,), a_request(tools=TOOLS, tool_choice=choice))

    assert isinstance(error, WorkError)
    assert (error.code, error.next) == ("tool_arguments_invalid", NextMove.REPAIR_OUTPUT)
    assert says in error.message


def test_a_call_that_was_required_is_missed() -> None:
    assert answered("hm", (), a_request(tools=TOOLS)) == b'"hm"'
    for choice in ("required", "weather"):
        assert isinstance(answered("hm", (), a_request(tools=TOOLS, tool_choice=choice)), WorkError)


def test_embeddings_are_one_vector_of_finite_numbers_per_input() -> None:
    assert embedded([[1.0, 0.5], [0.0, 2.0]], ["a", "b"]) == b"[[1.0,0.5],[0.0,2.0]]"
    for vectors in (None, [[1.0]], [[1.0], [1.0, 2.0]], [[1.0], [float("nan")]], [[1.0]] * 3):
        error = embedded(vectors, ["a", "b"])
        assert isinstance(error, WorkError)
        assert (error.code, error.next) == ("embeddings_invalid", NextMove.RETRY_ELSEWHERE)
