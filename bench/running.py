"""Owns how a bench runs: to its end, or until a signal asks it to stop; what it started goes away in either case."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(main: Coroutine[Any, Any, None]) -> None:
    """Runs `main`, which a signal cancels; it cleans up in its own time. Then it exits as a shell expects it."""
    if code := asyncio.run(_until_asked(main)):
        raise SystemExit(code)


async def _until_asked(main: Coroutine[Any, Any, None]) -> int:
    # Handlers of our own: in the background a shell has Ctrl-C ignored, and SIGTERM would end us on the spot.
    loop, asked = asyncio.get_running_loop(), list[int]()
    task = asyncio.ensure_future(main)

    def stop(number: int) -> None:
        if not asked:  # once: a second one would cut the cleaning up off
            asked.append(number)
            task.cancel()

    for number in SIGNALS:
        loop.add_signal_handler(number, stop, number)
    try:
        await task
    except asyncio.CancelledError:
        if not asked:
            raise
    return 128 + asked[0] if asked else 0
