"""Owns which requests are suspected of killing engines, and when one is found guilty.

An engine that dies tells nobody which request did it. What is known is who was in it. A request is known here by the
fingerprint of what the model would see (`fingerprint`), not by its id: a step that is tried again comes with another id
and the same prompt, and so does the same document in another run.

The rules, in the order of what they cost:

- A death makes everybody who was in the engine a suspect. Most deaths have nothing to do with any request (a lost GPU,
  an operator's kill), and with many suspects one death says next to nothing about each: they come back in company.
- A suspect is run *alone*, with nobody else in the engine, once it was in two deaths, or while there are so few
  suspects (`alone_max`) that this costs little.
- Guilty is only who was alone in the engine when it died, and had been in a death before. Whoever was merely there, in
  two deaths or in ten, never is; nobody can be made guilty by what another sends. So a request that was alone both
  times is guilty at the second death, and one in a crowd at the third.
- Who answers is acquitted, and so are suspects that are not seen again while others become suspects (`kept_max`).

Nothing is stored. A restarted process has forgotten its suspects, and an attempt on another instance counts there: the
number of attempts per step bounds what one request can kill altogether.
"""

from collections import OrderedDict
from collections.abc import Collection
from hashlib import sha256
from typing import Final

from penstock.contracts.messages import InferenceRequested

ALONE_MAX: Final = 8
KEPT_MAX: Final = 1024
DEATHS_TO_BE_ALONE: Final = 2
DEATHS_OF_THE_GUILTY: Final = 2

SEEN: Final = frozenset(
    {
        *("model", "adapter", "operation", "messages", "prompt", "inputs"),
        *("output_schema", "regex", "choices", "tools", "tool_choice", "sampling"),
    }
)
"""The fields of a request that the engine gets to see."""


def fingerprint(request: InferenceRequested) -> str:
    """The same for whatever makes the engine do the same work."""
    return sha256(request.model_dump_json(include=set(SEEN), exclude_none=True).encode()).hexdigest()


class Suspects:
    """Bounded: the oldest suspects and the oldest guilty are forgotten."""

    def __init__(self, *, alone_max: int = ALONE_MAX, kept_max: int = KEPT_MAX) -> None:
        self._alone_max: Final = alone_max
        self._kept_max: Final = kept_max
        self._deaths: Final[OrderedDict[str, int]] = OrderedDict()
        self._guilty: Final[OrderedDict[str, None]] = OrderedDict()

    def __bool__(self) -> bool:
        """Whether anybody is suspected or guilty; while nobody is, nobody needs a fingerprint."""
        return bool(self._deaths or self._guilty)

    def died(self, present: Collection[str]) -> None:
        """An engine died with these in it."""
        for name in present:
            self._deaths[name] = self._deaths.pop(name, 0) + 1
        if len(present) == 1:
            (alone,) = present
            if self._deaths[alone] >= DEATHS_OF_THE_GUILTY:
                del self._deaths[alone]
                self._guilty[alone] = None
        for kept in (self._deaths, self._guilty):
            while len(kept) > self._kept_max:
                kept.popitem(last=False)

    def guilty(self, name: str) -> bool:
        """Whether it killed an engine twice; it must never reach one again."""
        return name in self._guilty

    def must_be_alone(self, name: str) -> bool:
        """Whether nobody else may be in the engine while it is."""
        deaths = self._deaths.get(name, 0)
        return deaths >= DEATHS_TO_BE_ALONE or (deaths > 0 and len(self._deaths) <= self._alone_max)

    def answered(self, name: str) -> None:
        """The engine lived through it."""
        self._deaths.pop(name, None)
