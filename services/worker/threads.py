"""Owns the threads that run plain task functions: a fixed few, which never keep the process from ending."""

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from typing import Any, Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_Job = tuple["Future[Any]", Callable[[], Any]]


class DaemonThreads(Executor):
    """The standard pool joins its threads when the interpreter exits: a task that hangs would outlive every drain."""

    def __init__(self, count: int) -> None:
        self._jobs: Final[SimpleQueue[_Job | None]] = SimpleQueue()
        self._threads: Final = [
            threading.Thread(target=self._run, name=f"task-{number}", daemon=True) for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Queues a call; as many run at a time as there are threads."""
        future: Future[T] = Future()
        self._jobs.put((future, lambda: fn(*args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the threads when the calls before have ended."""
        del cancel_futures  # whoever waited for a queued call cancels its future itself
        for _ in self._threads:
            self._jobs.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, call = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001 - whatever it is belongs to whoever waits for it
                future.set_exception(error)
            else:
                future.set_result(result)
