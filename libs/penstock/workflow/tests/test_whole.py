"""Owns the examples of expressions over values that travel as references."""

from collections.abc import Callable, Sequence
from typing import Any

import orjson
import pytest

from penstock.contracts.blobs import Reference, reference_to
from penstock.workflow.expressions import ExpressionError, compile_expression, compile_text, compile_value
from penstock.workflow.whole import CONTENTS, ContentNeededError, UnreadableError

TEXT, PAGES = reference_to(b'"On pipes"'), reference_to(orjson.dumps([{"n": 1}, {"n": 2}]))
NESTED = reference_to(orjson.dumps({"title": TEXT.to_value(), "n": 3}))
LOST = Reference("0a" * 32, 10)
IMAGE = Reference("0b" * 32, 10, "image/png")
INPUT = {
    "text": TEXT.to_value(),
    "pages": PAGES.to_value(),
    "nested": NESTED.to_value(),
    "lost": LOST.to_value(),
    "image": IMAGE.to_value(),
    "list": [TEXT.to_value(), "plain"],
    "language": "en",
}


class Known:
    """The contents that a test knows, and which were asked for."""

    def __init__(self, contents: dict[Reference, Any]) -> None:
        self.contents = contents
        self.asked: set[Reference] = set()
        self.refers = True

    def find(self, references: Sequence[Reference]) -> dict[Reference, Any]:
        self.asked |= set(references)
        if LOST in references:
            raise UnreadableError("there is no such blob")
        missing = [each for each in references if each not in self.contents]
        if missing:
            raise ContentNeededError("acme", missing)
        return {each: self.contents[each] for each in references}


@pytest.fixture
def known() -> Known:
    nested = {"title": TEXT.to_value(), "n": 3}
    return Known({TEXT: "On pipes", PAGES: [{"n": 1}, {"n": 2}], NESTED: nested})


def scope_of(known: Known | None) -> Callable[[str], Any]:
    return {"input": INPUT, CONTENTS: known}.__getitem__


@pytest.mark.parametrize(
    ("template", "value", "looked_into"),
    [
        ("{{ input.text }}", TEXT.to_value(), set()),
        ({"a": ["{{ input.pages }}"]}, {"a": [PAGES.to_value()]}, set()),
        ("{{ input.language }}", "en", set()),
        ("{{ input.language | upper }}", "EN", set()),
        ("Read: {{ input.text }}.", "Read: On pipes.", {TEXT}),
        ("{{ input.text }} and {{ input.language }}\n", "On pipes and en", {TEXT}),
        ("{{ input.text | length }}", 8, {TEXT}),
        ("{{ input.pages[1].n }}", 2, {PAGES}),
        ("{{ input.nested.n }}", 3, {NESTED}),
        ("{{ input.nested.title }}", TEXT.to_value(), {NESTED}),
        ("{{ input.nested.title | upper }}", "ON PIPES", {NESTED, TEXT}),
        ("{{ input.pages | map(attribute='n') | sum }}", 3, {PAGES}),
        ("{{ input.list | join(' ') }}", "On pipes plain", {TEXT}),
        ("{% for page in input.pages %}{{ page.n }}{% endfor %}", "12", {PAGES}),
        ("{{ input.image }}", IMAGE.to_value(), set()),
        ("{{ input.image.media_type }}", "image/png", set()),
        ("{{ input.missing | default('none') }}", "none", None),
    ],
)
def test_an_expression_sees_what_a_reference_stands_for_where_it_looks_into_it(
    template: Any, value: Any, looked_into: set[Reference] | None, known: Known
) -> None:
    if looked_into is None:
        known.contents[LOST] = known.contents[IMAGE] = None
        known.find = lambda references: {each: known.contents[each] for each in references}  # type: ignore[method-assign]  # all is there

    assert compile_value(template)(scope_of(known)) == value
    assert looked_into is None or known.asked == looked_into


def test_a_condition_and_the_list_of_a_map_are_looked_at_and_so_never_references(known: Known) -> None:
    assert compile_expression("input.pages")(scope_of(known)) == [{"n": 1}, {"n": 2}]
    assert compile_expression("input.text == 'On pipes'")(scope_of(known)) is True
    assert compile_expression("input.list")(scope_of(known)) == INPUT["list"]


def test_what_is_not_known_yet_is_asked_for_all_at_once() -> None:
    with pytest.raises(ContentNeededError) as needed:
        compile_text("{{ input.list | join }} {{ input.text }}{{ input.pages | length }}")(scope_of(Known({})))

    assert needed.value.references == [TEXT]


@pytest.mark.parametrize("template", ["{{ input.lost.n }}", "Read {{ input.lost }}", "{{ input | tojson }}"])
def test_what_cannot_be_read_is_an_error_that_says_why(template: str, known: Known) -> None:
    known.contents |= {IMAGE: None}

    with pytest.raises(ExpressionError, match="there is no such blob"):
        compile_value(template)(scope_of(known))


def test_where_no_value_refers_to_anything_nothing_is_looked_through(known: Known) -> None:
    known.refers = False

    assert compile_value("{{ input.text.bytes + 1 }}")(scope_of(known)) == 11
    assert compile_value("{{ input.text.bytes + 1 }}")(scope_of(None)) == 11
    assert known.asked == set()
