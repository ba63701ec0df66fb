"""Owns the two halves of a coroutine: its first step, taken at once, and its rest, where it began to wait.

Most of what handles a record never waits. Whoever takes the first step itself learns which: it is done, or it waits.
"""

from collections.abc import Coroutine, Generator
from contextvars import Context
from typing import Any, Final


class Rest:
    """The rest of a coroutine that has begun to wait. What it yields goes to the task that awaits this.

    It goes on in `context`, if there is one: that of its first step.
    """

    __slots__ = ("_context", "_coroutine", "_waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], waits_for: Any, context: Context | None = None) -> None:
        self._coroutine: Final = coroutine
        self._waits_for: Final = waits_for
        self._context: Final = context

    def __await__(self) -> Generator[Any, Any, Any]:
        waits_for, context = self._waits_for, self._context
        while True:
            sent: Any = None
            thrown: BaseException | None = None
            try:
                sent = yield waits_for
            except BaseException as error:  # noqa: BLE001 - a cancellation too belongs to the coroutine
                thrown = error
            try:
                waits_for = self._step(sent, thrown) if context is None else context.run(self._step, sent, thrown)
            except StopIteration as end:
                return end.value

    def _step(self, sent: Any, thrown: BaseException | None) -> Any:
        return self._coroutine.send(sent) if thrown is None else self._coroutine.throw(thrown)
