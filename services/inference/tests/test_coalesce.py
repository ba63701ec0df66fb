"""Tests of cutting an answer into pieces: whatever comes when, and however little room there is."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from services.inference.core.coalesce import PIECE_CHARACTERS_MAX, Coalescer, Pace, Piece, cleaned

PACE = Pace(every_ms=75, characters=20)
ANY_TEXT = st.text(alphabet=st.characters(), max_size=30)
"""Surrogates too, alone and in pairs."""
MOMENTS = st.lists(st.tuples(ANY_TEXT, st.integers(0, 100), st.booleans()), max_size=30)
"""A delta, the milliseconds since the one before, and whether there is room for a piece."""


def put_together(pieces: list[Piece]) -> str:
    """What a reader has who begins again at each sequence 0, and checks that nothing is missing."""
    text = ""
    expected = 0
    for piece in pieces:
        if piece.sequence == 0:
            text, expected = "", 0
        assert (piece.sequence, piece.from_character) == (expected, len(text))
        expected += 1
        text += piece.text
        assert (piece.sha256 is not None) == (piece is pieces[-1])
    assert pieces[-1].sha256 == hashlib.sha256(text.encode()).hexdigest()
    return text


def sent_while_it_came(coalescer: Coalescer, moments: list[tuple[str, int, bool]]) -> list[Piece]:
    at_ms, pieces = 0.0, []
    for count, (text, later_ms, room) in enumerate(moments):
        at_ms += later_ms
        coalescer.hear(text, count)
        if room and coalescer.due_in_ms(at_ms) == 0:
            pieces += coalescer.take(at_ms)
    return pieces


@given(MOMENTS)
def test_whatever_comes_when_the_pieces_are_the_answer(moments: list[tuple[str, int, bool]]) -> None:
    coalescer = Coalescer(PACE)
    answer = "".join(text for text, _, _ in moments)

    pieces = [*sent_while_it_came(coalescer, moments), *coalescer.end(answer, 99)]

    assert put_together(pieces) == cleaned(answer)
    assert pieces[-1].tokens == 99


@given(MOMENTS, ANY_TEXT)
def test_an_engine_that_takes_back_what_it_said_is_followed(moments: list[tuple[str, int, bool]], answer: str) -> None:
    """A stop string, say, that is cut off again."""
    coalescer = Coalescer(PACE)

    pieces = [*sent_while_it_came(coalescer, moments), *coalescer.end(answer, 99)]

    assert put_together(pieces) == cleaned(answer)


@given(MOMENTS)
def test_a_failed_answer_ends_as_well(moments: list[tuple[str, int, bool]]) -> None:
    coalescer = Coalescer(PACE)
    sent = sent_while_it_came(coalescer, moments)

    pieces = [*sent, *coalescer.end(None, 0)]

    assert put_together(pieces) == "".join(piece.text for piece in sent)


def test_the_first_piece_is_due_at_once_and_further_ones_by_time_or_size() -> None:
    coalescer = Coalescer(PACE)
    assert coalescer.due_in_ms(0) is None
    coalescer.hear("a", 1)
    assert coalescer.due_in_ms(0) == 0
    coalescer.take(0)

    coalescer.hear("b", 2)
    assert coalescer.due_in_ms(25) == 50
    assert coalescer.due_in_ms(75) == 0
    coalescer.hear("c" * 19, 3)
    assert coalescer.due_in_ms(25) == 0
    assert [piece.text for piece in coalescer.take(25)] == ["b" + "c" * 19]


def test_a_character_in_two_halves_is_never_cut() -> None:
    coalescer = Coalescer(PACE)
    coalescer.hear("so \ud83d", 1)
    (first,) = coalescer.take(0)
    coalescer.hear("\ude00!", 2)
    (second,) = coalescer.take(80)

    assert (first.text, second.text) == ("so ", "😀!")
    assert coalescer.end("so \ud83d\ude00!", 2)[-1].from_character == 5


def test_what_is_long_is_sent_as_several_pieces() -> None:
    coalescer = Coalescer(PACE)

    pieces = coalescer.end("x" * (2 * PIECE_CHARACTERS_MAX + 1), 1)

    assert [len(piece.text) for piece in pieces] == [PIECE_CHARACTERS_MAX, PIECE_CHARACTERS_MAX, 1]
    assert put_together(pieces) == "x" * (2 * PIECE_CHARACTERS_MAX + 1)
