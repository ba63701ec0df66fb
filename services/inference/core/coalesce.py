"""Owns how an answer that is still coming is cut into pieces: by time and size, coarser where there is no room.

Whatever comes when, the pieces are gapless, in order, and say together what the answer says in the end: the last piece
has its SHA-256. Text is counted in Unicode code points. A pair of surrogates that came in two deltas is one character,
and half of one is held back until the other half comes; one that stays alone has no form in UTF-8 and becomes U+FFFD.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

PIECE_CHARACTERS_MAX: Final = 65_536
"""A longer piece is sent as several: in JSON a character can take six bytes, and a record has to fit the broker."""


@dataclass(frozen=True, slots=True)
class Pace:
    """When a piece is due: at once the first, then when so much time has passed or so much text has come."""

    every_ms: float
    characters: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece as it is to be sent. `sha256` comes with the last one. A `sequence` of 0 begins from nothing."""

    sequence: int
    from_character: int
    text: str
    tokens: int
    sha256: str | None = None


class Coalescer:
    """One answer. Times are milliseconds of any clock that does not go back."""

    def __init__(self, pace: Pace) -> None:
        self.pace: Final = pace
        self._waiting: list[str] = []
        self._waiting_characters = 0
        self._half = ""
        self._tokens = 0
        self._sequence = 0
        self._sent_characters = 0
        self._sent = hashlib.sha256()
        self._sent_at_ms: float | None = None

    def hear(self, text: str, tokens: int) -> None:
        """More text came; `tokens` is how many output tokens there are up to its end."""
        text = self._half + text
        self._half = ""
        if text and _is_half(text[-1]):
            text, self._half = text[:-1], text[-1]
        text = cleaned(text)
        self._tokens = max(tokens, self._tokens)
        if text:
            self._waiting.append(text)
            self._waiting_characters += len(text)

    def due_in_ms(self, at_ms: float) -> float | None:
        """How long the text that waits may wait, 0: not at all; None where there is none."""
        if not self._waiting:
            return None
        if self._sent_at_ms is None or self._waiting_characters >= self.pace.characters:
            return 0.0
        return max(0.0, self._sent_at_ms + self.pace.every_ms - at_ms)

    def take(self, at_ms: float) -> list[Piece]:
        """All that waits, as a piece; as several where it is long."""
        text = "".join(self._waiting)
        self._waiting.clear()
        self._waiting_characters = 0
        self._sent_at_ms = at_ms
        return self._pieces(text)

    def end(self, answer: str | None, tokens: int) -> list[Piece]:
        """The rest of the answer and its end. `answer` is the whole of it; None: it failed, its text is void.

        Where what was sent is not how the answer begins, the pieces begin again from nothing.
        """
        self._tokens = max(tokens, self._tokens)
        if answer is None:
            self._waiting.clear()
            rest = ""
        else:
            answer = cleaned(answer)
            begins = hashlib.sha256(answer[: self._sent_characters].encode()).digest() == self._sent.digest()
            if not begins:
                self.begin_again()
            rest = answer[self._sent_characters :]
        return self._pieces(rest, last=True)

    def begin_again(self) -> None:
        """Forgets what was sent: the next piece is the first."""
        self._sequence = self._sent_characters = 0
        self._sent = hashlib.sha256()

    def _pieces(self, text: str, *, last: bool = False) -> list[Piece]:
        cuts = range(0, len(text), PIECE_CHARACTERS_MAX) if text else range(1)
        pieces = []
        for cut in cuts:
            part = text[cut : cut + PIECE_CHARACTERS_MAX]
            self._sent.update(part.encode())
            ends = last and cut + PIECE_CHARACTERS_MAX >= len(text)
            digest = self._sent.hexdigest() if ends else None
            pieces.append(Piece(self._sequence, self._sent_characters, part, self._tokens, digest))
            self._sequence += 1
            self._sent_characters += len(part)
        return pieces


def cleaned(text: str) -> str:
    """The text with pairs of surrogates as the characters they mean, and lone ones as U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", errors="surrogatepass").decode("utf-16", errors="replace")
    return text


def _is_half(character: str) -> bool:
    return "\ud800" <= character <= "\udbff"
