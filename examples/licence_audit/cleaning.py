"""Owns what of a licence document a small model gets to read: decoded, without boilerplate, cut to a few tokens."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

CHARACTERS_MAX: Final = 1_000
"""About 220 tokens. A context of 2,048 tokens would hold more, but a small model loses the thread, and time counts."""
HEAD_CHARACTERS: Final = 300
"""The beginning names the licence; it is kept as it is, and the rest is filled with sentences that set conditions."""

_NOTICE: Final = re.compile(
    r"^\W*(copyright\b|\(c\)|©|all rights reserved|portions? (of|copyright)|author:|maintainer:|http|@\(#\)|spdx-)",
    re.I,
)
_ADDRESS: Final = re.compile(
    r"https?://\S+|<?\b[\w.+-]+@[\w-]+\.[\w.]+>?|\b\d+ \w+ Street\b.*|\b[A-Z]{2} \d{5}(-\d{4})?\b.*"
)
_DECORATION: Final = re.compile(r"[-=*#_~/\\|]{3,}|^[\s*#>/|;-]+|`+", re.M)
_SHOUTED: Final = re.compile(r"\b(AS IS|LIABLE|LIABILITY|WARRANT\w*|DAMAGES)\b")
_SENTENCE_END: Final = re.compile(r"(?<=[.;:])\s+(?=[A-Z(0-9*-])")
_DEFINITION: Final = re.compile(r"^\W*[\d.]*\W*[\"“]\S.{0,60}[\"”][^.]{0,20} (shall mean|means?)\b")
_OBLIGATION: Final = re.compile(
    r"\b(you must|must (be|give|retain|include|cause)|provided that|on the condition)\b", re.I
)
_CONDITION: Final = re.compile(
    r"\b(must|shall|required to|under (the )?(terms|this license)|retain|reproduce|derivative works?|same license)\b",
    re.I,
)


class NotTextError(ValueError):
    """The bytes are not text in any encoding that licence files come in."""


@dataclass(frozen=True, slots=True)
class Cleaned:
    """The excerpt, and what was done to get it."""

    text: str
    encoding: str
    cut: bool


def clean(content: bytes) -> Cleaned:
    """The informative part of a document. Raises NotTextError; an empty or bare document gives an empty text."""
    decoded, encoding = decode(content)
    sentences = list(_sentences(decoded))
    text = _excerpt(sentences)
    return Cleaned(text=text, encoding=encoding, cut=len(text) < len(" ".join(sentences)))


def decode(content: bytes) -> tuple[str, str]:
    """The text and the name of its encoding: UTF-8 as it should be, else the Windows code page of old files."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _decoded(content, "utf-16"), "utf-16"
    if b"\0" in content:
        raise NotTextError("the document holds zero bytes: it is not text")
    try:
        return content.decode("utf-8-sig"), "utf-8"
    except UnicodeDecodeError:
        # Some bytes mean nothing in cp1252; a replaced letter in a name does not change a licence.
        return content.decode("cp1252", errors="replace"), "cp1252"


def _decoded(content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise NotTextError(f"the document is not {encoding} although it begins so") from error


def _sentences(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text.replace("\r\n", "\n").replace("\f", "\n")):
        lines = [line for line in paragraph.splitlines() if not _NOTICE.search(line)]
        joined = _DECORATION.sub(" ", _ADDRESS.sub(" ", "\n".join(lines)))
        flat = " ".join(joined.split())
        if _is_disclaimer(flat):
            continue
        for sentence in _SENTENCE_END.split(flat):
            if any(character.isalnum() for character in sentence) and not _DEFINITION.search(sentence):
                yield sentence


def _is_disclaimer(paragraph: str) -> bool:
    """The shouted paragraphs without warranty say the same in every licence, at a hundred tokens each."""
    letters = [character for character in paragraph if character.isalpha()]
    shouted = sum(character.isupper() for character in letters)
    return bool(letters) and shouted > 0.7 * len(letters) and _SHOUTED.search(paragraph) is not None


def _excerpt(sentences: list[str]) -> str:
    """The head, then sentences that set conditions as long as there is room, the plainest first, in their order."""
    whole = " ".join(sentences)
    if len(whole) <= CHARACTERS_MAX:
        return whole
    head = 0
    length = 0
    while length < HEAD_CHARACTERS:
        length += len(sentences[head]) + 1
        head += 1
    kept = set(range(head))
    for pattern in (_OBLIGATION, _CONDITION):
        for place in range(head, len(sentences)):
            fits = length + len(sentences[place]) < CHARACTERS_MAX
            if fits and place not in kept and pattern.search(sentences[place]):
                kept.add(place)
                length += len(sentences[place]) + 1
    return " ".join(sentences[place] for place in sorted(kept))[:CHARACTERS_MAX]
