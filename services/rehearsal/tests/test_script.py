"""What a test file may say, and how what it says wrong is told."""

from pathlib import Path

import pytest

from services.rehearsal.durations import milliseconds, said
from services.rehearsal.patterns import PatternError, matches
from services.rehearsal.reading import UnreadableError, found, read_script

GREET = """
name: greet
tiers: {small: [{pool: small, model: tiny}]}
do: {id: greeting, model: small, prompt: "Greet {{ input.name }}."}
"""


@pytest.mark.parametrize(
    ("text", "duration_ms", "again"),
    [
        ("3w", 1_814_400_000, "3w"),
        ("2d 4h", 187_200_000, "2d 4h"),
        ("1.5s", 1_500, "1.5s"),
        ("250ms", 250, "250ms"),
        ("90s", 90_000, "1m 30s"),
        (2, 2_000, "2s"),
        (0, 0, "0s"),
        ("1m 2.639s", 62_639, "1m 2.639s"),
    ],
)
def test_a_duration_is_read_as_it_is_said(text: str | int, duration_ms: int, again: str) -> None:
    assert milliseconds(text) == duration_ms
    assert said(duration_ms) == again
    assert milliseconds(again) == duration_ms


@pytest.mark.parametrize("text", ["", "soon", "3 parsecs", "-1s", "101000w", True, None])
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"duration|hundred years"):
        milliseconds(text)


@pytest.mark.parametrize(
    ("pattern", "path", "same"),
    [
        ("read", "audit/documents[3]/document/read", True),
        ("read", "audit/spread", False),
        ("documents[3]/document/read", "audit/documents[3]/document/read", True),
        ("documents[2]/document/read", "audit/documents[3]/document/read", False),
        ("documents/document/read", "audit/documents[3]/document/read", True),
        ("documents[*]/**/read", "audit/documents[3]/document/read", True),
        ("documents/**/document/read", "audit/documents[3]/document/read", True),
        ("document/re*", "audit/documents[3]/document/read", True),
        ("/document/read", "audit/documents[3]/document/read", False),
        ("/audit/*/document/read", "audit/documents[3]/document/read", True),
        ("documents", "audit/documents[3]/document/read", False),
        ("agent[2]/turn", "agent[2]/turn", True),
    ],
)
def test_a_pattern_names_steps_by_the_tail_of_their_path(pattern: str, path: str, same: bool) -> None:
    assert matches(pattern, path) is same


@pytest.mark.parametrize("pattern", ["", "a//b", "a[x]", "A", "a b", "a[1"])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        matches(pattern, "a")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "cases: [{name: a, anwers: {}}]",
            ":1: $.cases[0].anwers: there is no field `anwers` here (did you mean `answers`?)",
        ),
        ("cases: [{name: a, answers: {greeting: {ouput: x}}}]", "(did you mean `output`?)"),
        (
            "cases: [{name: a, answers: {greeting: {output: x, fails: {}}}}]",
            "exactly one of `output`, `fails` and `never`",
        ),
        ("cases: [{name: a, answers: {greeting: {output: x, after: soon}}}]", "`soon` is no duration"),
        ("cases: [{name: a, expect: {calls: {model: '<= many'}}}]", "`many` is no number"),
        ("cases: [{name: a, expect: {ran: ['a b']}}]", "`a b` names no step"),
        ("cases: [{name: a, signals: [{at: 1s}]}]", "exactly one of `cancel` and `redrive`"),
        ("cases: [{name: a}, {name: a}]", "two cases are called `a`"),
        ("cases: []", "$.cases"),
        ("cases: [", "not YAML"),
        ("workflows: {audit: audit.yaml}\ncases: [{name: a}]", "there is no definition"),
        ("workflow: other.yaml\ncases: [{name: a}]", "there is no definition"),
        ("workflow: {name: x, do: {id: a, model: nosuch, prompt: b}}\ncases: [{name: a}]", "there is no tier `nosuch`"),
    ],
)
def test_a_fault_in_a_test_file_is_said_with_its_place(tmp_path: Path, text: str, fault: str) -> None:
    # Given a test file with a fault
    (tmp_path / "greet.yaml").write_text(GREET)
    (tmp_path / "greet.test.yaml").write_text(text)

    # When it is read
    with pytest.raises(UnreadableError) as refused:
        read_script(tmp_path / "greet.test.yaml")

    # Then the fault stands there, with its file and line
    said_about = "\n".join([str(refused.value), *refused.value.faults])
    assert fault in said_about
    assert "greet.test.yaml" in said_about


def test_tests_are_found_beside_a_definition_and_below_a_folder(tmp_path: Path) -> None:
    # Given two workflows, one of them with tests, and tests in a folder that nobody wants looked at
    (tmp_path / "greet.yaml").write_text(GREET)
    (tmp_path / "greet.test.yaml").write_text("cases: [{name: a}]")
    (tmp_path / "lonely.yaml").write_text(GREET)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "other.test.yaml").write_text("cases: [{name: a}]")

    # Then they are found by the folder, by themselves and by their definition
    file = tmp_path / "greet.test.yaml"
    assert found(tmp_path) == found(file) == found(tmp_path / "greet.yaml") == [file]
    with pytest.raises(UnreadableError, match=r"write lonely\.test\.yaml"):
        found(tmp_path / "lonely.yaml")
    with pytest.raises(UnreadableError, match="there is no"):
        found(tmp_path / "nosuch")
