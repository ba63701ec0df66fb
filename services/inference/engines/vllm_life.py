"""Owns an engine's life: built, watched, killed where it hangs, built again where it died.

A death takes all calls that were in the engine with it. Each of them fails by itself (its step is tried elsewhere);
here the death is noted once, with who was in it, and a fresh engine is built in the same process.

vLLM says of a dead engine that it is dead. Of one that hangs (a lost GPU, a stuck collective, a stopped process) it
says that all is well. So there is a watchdog: an engine that has work and gave no sign of life for `stall_seconds` is
killed, and from there on it is a death like any other.
"""

import asyncio
import multiprocessing
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Final

import psutil

from penstock.contracts.messages import InferenceRequested, NextMove, WorkError
from penstock.runtime.telemetry import logger
from services.inference.core.suspects import Suspects, fingerprint
from services.inference.engines import vllm_library
from services.inference.engines.protocol import EngineFailedError
from services.inference.engines.vllm_janitor import Janitor, kill_tree
from services.inference.engines.vllm_library import Built, Gauges
from services.inference.engines.vllm_options import VllmOptions
from services.inference.events import Event

LOOKS_PER_STALL: Final = 10
"""A stall is this many looks in a row without a sign of life: a loop that slept itself counts as one look."""
LOOK_SECONDS_MAX: Final = 1.0
BUILD_RETRY_SECONDS: Final = (1.0, 2.0, 5.0, 15.0, 30.0)

_log = logger("vllm")


class Incarnation:
    """One engine from its start to its death, with the calls that are in it."""

    def __init__(self, built: Built, number: int) -> None:
        self.built: Final = built
        self.number: Final = number
        self.present: Final[dict[str, InferenceRequested]] = {}
        """By the id that vLLM knows the call by."""
        self.hung = False
        self.lost: Final = asyncio.Event()
        self.empty: Final = asyncio.Event()
        self.empty.set()

    def enter(self, request: InferenceRequested) -> str:
        """A call goes in; says how vLLM is to know it: by the request's id, which its logs show then."""
        name = str(request.request_id)
        while name in self.present:  # a redelivery beside its forerunner's last moments; vLLM would mix them up
            name += "+"
        self.present[name] = request
        self.empty.clear()
        return name

    def leave(self, name: str) -> None:
        """A call is over."""
        del self.present[name]
        if not self.present:
            self.empty.set()

    def failure(self) -> WorkError:
        """What a call that was in it at its end says."""
        if self.hung:
            message, code = "the engine hung with this call in it, and was killed", "engine_hung"
        else:
            message, code = "the engine died with this call in it", "engine_died"
        return WorkError(code=code, message=message, next=NextMove.RETRY_ELSEWHERE)


class EngineLife:
    """The engine that is there now, if one is."""

    def __init__(
        self,
        options: VllmOptions,
        suspects: Suspects,
        environment: MutableMapping[str, str],
        warm_up: Callable[[Built], Awaitable[None]],
    ) -> None:
        self._options: Final = options
        self._suspects: Final = suspects
        self._environment: Final = environment
        self._warm_up: Final = warm_up
        self.gauges: Final = Gauges()
        self._current: Incarnation | None = None
        self._there: Final = asyncio.Event()
        self._built_so_far = 0
        self._state = "not started"
        self._starting: asyncio.Task[Incarnation] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._janitor: Janitor | None = None

    @property
    def now(self) -> Incarnation | None:
        """The engine, where it takes calls."""
        return self._current

    def current(self) -> Incarnation:
        """The engine. Raises EngineFailedError where it does not take calls at the moment."""
        if self._current is None:
            raise _away(self._state)
        return self._current

    async def start(self) -> None:
        """Returns with an engine that answers. Raises EngineFailedError where a first one could not be built."""
        if self._keeping is None:
            if self._starting is None or self._starting.done():
                self._starting = asyncio.create_task(self._build())
            first = await asyncio.shield(self._starting)
            if self._keeping is None:
                self._take(first)
                self._keeping = asyncio.create_task(self._keep())
        await self._there.wait()

    def _take(self, incarnation: Incarnation) -> None:
        self._current = incarnation
        self._there.set()

    def note_death(self, incarnation: Incarnation) -> None:
        """Once per engine, whoever sees it first: who was in it becomes a suspect, and no call gets in any more."""
        if incarnation.lost.is_set():
            return
        incarnation.lost.set()
        if self._current is incarnation:
            self._current = None
            self._there.clear()
            self._state = "the engine is being built again"
        self.gauges.running = self.gauges.waiting = 0
        self.gauges.kv_share = 0.0
        present = {fingerprint(request) for request in incarnation.present.values()}
        self._suspects.died(present)
        event = Event.ENGINE_HUNG if incarnation.hung else Event.ENGINE_DIED
        _log.error(event, number=incarnation.number, calls=len(incarnation.present), different=len(present))
        vllm_library.fail_calls(incarnation.built)

    async def close(self) -> None:
        """Ends the engine and all that belongs to it."""
        self._state = "the engine is closed"
        for task in (self._keeping, self._starting):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        incarnation, self._current = self._current, None
        if incarnation is not None:
            incarnation.lost.set()
            await self._end(incarnation.built)
        if self._janitor is not None:
            await asyncio.to_thread(self._janitor.dismiss)

    # Building.

    async def _build(self) -> Incarnation:
        """Raises EngineFailedError."""
        self._state = "the engine is being built"
        if self._janitor is None:
            self._janitor = Janitor()
        building = asyncio.create_task(
            asyncio.to_thread(vllm_library.build, self._options, self.gauges, self._environment)
        )
        built: Built | None = None
        try:
            while not building.done():
                await asyncio.wait((building,), timeout=LOOK_SECONDS_MAX)
                self._janitor.watch_over(child.pid for child in multiprocessing.active_children() if child.pid)
            built = building.result()
            self._janitor.watch_over(built.processes())
            self._built_so_far += 1
            incarnation = Incarnation(built, self._built_so_far)
            await self._warm_up(built)
        except Exception as error:  # whatever vLLM raises: the reason stands in the health page
            self._state = f"no engine: {type(error).__name__}: {error}"
            _log.error(Event.ENGINE_NOT_BUILT, error=self._state)
            if built is not None:
                await self._end(built)
            raise _away(self._state) from error
        _log.info(Event.ENGINE_BUILT, number=incarnation.number, context_tokens_max=built.context_tokens_max)
        return incarnation

    async def _build_again(self) -> Incarnation:
        failures = 0
        while True:
            try:
                return await self._build()
            except EngineFailedError:
                await asyncio.sleep(BUILD_RETRY_SECONDS[min(failures, len(BUILD_RETRY_SECONDS) - 1)])
                failures += 1

    # Watching.

    async def _keep(self) -> None:
        """One engine after another, for ever."""
        while True:
            incarnation = self._current
            if incarnation is None:
                incarnation = await self._build_again()
                self._take(incarnation)
            await self._watch(incarnation)
            self.note_death(incarnation)
            await self._end(incarnation.built)

    async def _watch(self, incarnation: Incarnation) -> None:
        """Returns when the engine is dead, or had to be killed."""
        look_seconds = min(LOOK_SECONDS_MAX, self._options.stall_seconds / LOOKS_PER_STALL)
        looks_max = self._options.stall_seconds / look_seconds
        still, steps = 0, self.gauges.steps
        while not incarnation.built.engine.errored:
            try:
                async with asyncio.timeout(look_seconds):
                    await incarnation.lost.wait()
            except TimeoutError:
                pass
            else:
                return
            alive = not incarnation.present or self.gauges.steps != steps
            still, steps = 0 if alive else still + 1, self.gauges.steps
            if still >= looks_max:
                incarnation.hung = True
                self.note_death(incarnation)
                await asyncio.to_thread(_kill, incarnation.built.processes())
                return

    async def _end(self, built: Built) -> None:
        """The processes are gone after this, whatever state they were in."""
        processes = built.processes()
        await asyncio.to_thread(built.shut_down)
        vllm_library.fail_calls(built)  # of a call that was just on its way in; nobody else would end it
        await asyncio.to_thread(_kill, processes)
        await asyncio.to_thread(_await_end, processes)


def _kill(process_ids: list[int]) -> None:
    for process_id in process_ids:
        if psutil.pid_exists(process_id):
            kill_tree(psutil.Process(process_id))


def _await_end(process_ids: list[int]) -> None:
    """None is left a zombie: one that was killed takes a moment to die, longer where much else runs."""
    for child in multiprocessing.active_children():
        if child.pid in process_ids:
            child.join(vllm_library.SHUTDOWN_SECONDS)


def _away(message: str) -> EngineFailedError:
    return EngineFailedError(
        WorkError(code="engine_unreachable", message=message[:2000], next=NextMove.RETRY_ELSEWHERE)
    )
