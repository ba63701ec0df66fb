"""Owns a text that matches a regular expression, drawn from a seed: the common constructs, and no others.

A second look at the text decides, as it does for a model's: what is drawn here need only mostly be right.
"""

from typing import Final

from services.inference.core.sample import CannotSampleError, Dice

REPEATS_MAX: Final = 8
"""Of what may be repeated without an end."""
DEPTH_MAX: Final = 32
CHARACTERS_MAX: Final = 16_384

_PRINTABLE: Final = "".join(map(chr, range(32, 127)))
_DIGITS: Final = "0123456789"
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_CLASSES: Final = {
    "d": _DIGITS,
    "w": _LETTERS + _DIGITS + "_",
    "s": " \t",
    "D": _LETTERS,
    "W": " -.,",
    "S": _LETTERS + _DIGITS,
}
_CONTROLS: Final = {"n": "\n", "t": "\t", "r": "\r"}


def matching(pattern: str, dice: Dice) -> str:
    """A text that matches. Raises CannotSampleError for what this small generator does not know."""
    drawer = _Drawer(pattern, dice)
    text = drawer.alternatives(0)
    if not drawer.at_end:
        raise CannotSampleError(f"the regex at character {drawer.position}")
    return text


class _Drawer:
    """Reads the pattern and draws at the same time: a group that is repeated is read again."""

    def __init__(self, pattern: str, dice: Dice) -> None:
        self._pattern: Final = pattern
        self._dice: Final = dice
        self.position = 0

    @property
    def at_end(self) -> bool:
        return self.position >= len(self._pattern)

    def alternatives(self, depth: int) -> str:
        """One of the branches up to the end of the group; all of them are read."""
        if depth > DEPTH_MAX:
            raise CannotSampleError(f"deeper than {DEPTH_MAX} groups")
        branches = [self._branch(depth)]
        while self._next() == "|":
            self.position += 1
            branches.append(self._branch(depth))
        return branches[self._dice.below(len(branches))]

    def _branch(self, depth: int) -> str:
        parts: list[str] = []
        while not self.at_end and self._next() not in "|)":
            began = self.position
            part = self._atom(depth)
            after = self.position
            low, high = self._counts()
            ended = self.position
            count = low + self._dice.below(high - low + 1)
            if count * max(1, len(part)) > CHARACTERS_MAX:
                raise CannotSampleError("a regex of long texts")
            parts += [part] if count else []
            for _ in range(count - 1):
                self.position = began
                parts.append(self._atom(depth))
                assert self.position == after
            self.position = ended
        return "".join(parts)

    def _atom(self, depth: int) -> str:
        character = self._take()
        match character:
            case "(":
                self._group_kind()
                text = self.alternatives(depth + 1)
                if self._next() != ")":
                    raise CannotSampleError("a group without an end")
                self.position += 1
                return text
            case "[":
                return self._one_of(self._class())
            case "\\":
                return self._one_of(self._escaped())
            case ".":
                return self._one_of(_LETTERS + _DIGITS + " ")
            case "^" | "$":
                return ""
            case "*" | "+" | "?":
                raise CannotSampleError("a repetition of nothing")
            case _:
                return character

    def _group_kind(self) -> None:
        if self._next() != "?":
            return
        rest = self._pattern[self.position :]
        if rest.startswith("?:"):
            self.position += 2
        elif rest.startswith(("?P<", "?<")) and rest[2] not in "=!" and ">" in rest:
            self.position += rest.index(">") + 1
        else:
            raise CannotSampleError("a group with flags or a look around")

    def _counts(self) -> tuple[int, int]:
        following = self._next()
        if following not in ("*", "+", "?", "{"):
            return 1, 1
        if following == "{":
            end = self._pattern.find("}", self.position)
            low, comma, high = self._pattern[self.position + 1 : end].partition(",")
            if end < 0 or not low.isdigit() or (high and not high.isdigit()):
                raise CannotSampleError("a count that is none")
            self.position = end + 1
            least = int(low)
            counts = (least, int(high) if high else least + (REPEATS_MAX if comma else 0))
        else:
            self.position += 1
            counts = {"*": (0, REPEATS_MAX), "+": (1, REPEATS_MAX), "?": (0, 1)}[following]
        if self._next() == "?":
            self.position += 1  # lazy: matches the same texts
        if counts[1] < counts[0] or counts[1] > CHARACTERS_MAX:
            raise CannotSampleError("a count that is none")
        return counts

    def _class(self) -> str:
        negated = self._next() == "^"
        self.position += negated
        members: list[str] = []
        while (character := self._take()) != "]" or not members:
            choice = self._escaped() if character == "\\" else character
            if character == "[" and self._next() == ":":
                raise CannotSampleError("a class with a name")
            if len(choice) == 1 and self._next() == "-" and self._pattern[self.position + 1 : self.position + 2] != "]":
                self.position += 1
                last = self._take()
                last = self._escaped() if last == "\\" else last
                choice = "".join(map(chr, range(ord(choice), ord(last) + 1)))
            members.append(choice)
        allowed = "".join(members)
        return "".join(each for each in _PRINTABLE if each not in allowed) if negated else allowed

    def _escaped(self) -> str:
        character = self._take()
        if character in _CLASSES:
            return _CLASSES[character]
        if character in _CONTROLS:
            return _CONTROLS[character]
        if character in "bB":
            raise CannotSampleError("a word's end")
        if character.isalnum():
            raise CannotSampleError(f"\\{character}")
        return character

    def _one_of(self, characters: str) -> str:
        if not characters:
            raise CannotSampleError("a class of nothing")
        return characters[self._dice.below(len(characters))]

    def _next(self) -> str:
        return self._pattern[self.position : self.position + 1]

    def _take(self) -> str:
        if self.at_end:
            raise CannotSampleError("a regex that breaks off")
        self.position += 1
        return self._pattern[self.position - 1]
