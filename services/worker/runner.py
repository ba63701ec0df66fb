"""Owns running one task: from a request's record to its two answers."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor
from contextvars import copy_context
from functools import partial
from time import monotonic
from typing import Any, Final

from penstock.contracts.blobs import INLINE_BYTES_MAX
from penstock.contracts.envelope import Outgoing
from penstock.contracts.messages import NextMove, TaskRequested, WorkError
from penstock.runtime.kafka.cancellations import Cancellations, Heeding, WorkStoppedError
from penstock.runtime.kafka.records import Received
from penstock.runtime.large_values import LargeValueError, LargeValues
from penstock.runtime.telemetry import logger
from penstock.runtime.work import Answers, BadRequestError, Outcome, Work, cancelled, failed, read, too_late
from penstock.workflow import task as tasks
from services.worker.eager import DeadlineReachedError, within
from services.worker.events import Event

_log = logger("worker")


class TaskRunner:
    """Runs tasks: async functions on the loop, plain ones in `threads`, each until its deadline at most.

    A plain function cannot be stopped: past its deadline, or when nobody awaits it any more, the answer goes out and
    its thread stays busy until it ends.
    """

    def __init__(
        self,
        answers: Answers,
        threads: Executor,
        large: LargeValues,
        home_partitions: int,
        now_ms: Callable[[], int],
        cancellations: Cancellations,
    ) -> None:
        self._answers: Final = answers
        self._large: Final = large
        self._threads: Final = threads
        self._home_partitions: Final = home_partitions
        self._now_ms: Final = now_ms
        self._cancellations: Final = cancellations

    async def handle(self, record: Received) -> Sequence[Outgoing]:
        """Answers one record. Raises Poison for one that cannot be read."""
        try:
            work = read(TaskRequested, record, self._home_partitions)
        except BadRequestError as bad:
            return self._answers.bad_request(bad, self._now_ms())
        request = work.request
        started_at_ms = self._now_ms()
        if work.expired(started_at_ms):
            result: bytes | WorkError = too_late("the deadline had passed before the task began")
            elapsed_ms = 0.0
        else:
            began = monotonic()
            try:
                self._cancellations.check(request.request_id)
                result = await self._result(work)
            except WorkStoppedError as error:
                result = cancelled(error)
            elapsed_ms = (monotonic() - began) * 1000
        outcome = Outcome(started_at_ms, elapsed_ms, completed={"task": request.task})
        if isinstance(result, bytes):
            outcome.output = result
        else:
            outcome.error = result
        return self._answers.records(work, request.task, outcome)

    async def _result(self, work: Work[TaskRequested]) -> bytes | WorkError:
        """Heeds cancellations wherever it waits, and only there: nobody is told of one while nobody waits.

        Raises WorkStoppedError.
        """
        request = work.request
        heeding = partial(self._cancellations.heeding, request.request_id)
        task = tasks.find(request.task)
        if task is None:
            known = ", ".join(tasks.registered()) or "none"
            return failed("unknown_task", f"no task is called {request.task!r} here; known: {known}")
        given = request.input
        try:
            if work.refers:
                with heeding():
                    given = await self._large.whole(work, given)
            arguments = task.arguments(given)
        except tasks.InputInvalidError as error:
            return failed("input_invalid", str(error))
        except LargeValueError as error:
            return error.error
        output = await self._output(work, task, arguments, heeding)
        if isinstance(output, WorkError) or len(output) <= INLINE_BYTES_MAX:
            return output
        with heeding():
            return await self._large.stored(work, output)

    async def _output(
        self, work: Work[TaskRequested], task: tasks.Task, arguments: dict[str, Any], heeding: Callable[[], Heeding]
    ) -> bytes | WorkError:
        request = work.request
        timeout_seconds = max(0.001, (work.deadline_at_ms - self._now_ms()) / 1000)
        token = tasks.set_current(request)
        try:
            return task.output_json(await within(timeout_seconds, self._call(task, arguments), heeding))
        except DeadlineReachedError:
            return failed("timeout", f"the task ran into its deadline after {timeout_seconds:.1f} s", _AGAIN)
        except tasks.Failed as error:
            return failed(error.code, error.message, error.next, error.retry_after_ms)
        except tasks.OutputInvalidError as error:
            return failed("output_invalid", str(error))
        except WorkStoppedError:
            raise
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is None or current.cancelling():
                raise  # ours: nobody awaits it any more, or the drain budget is over
            return failed("task_failed", "the task was cancelled from inside", _AGAIN)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's function may raise anything
            _log.warning(Event.TASK_FAILED, task=request.task, request_id=str(request.request_id), exc_info=True)
            return failed("task_failed", f"{type(error).__name__}: {error}", _AGAIN)
        finally:
            tasks.reset_current(token)

    def _call(self, task: tasks.Task, arguments: dict[str, Any]) -> Coroutine[Any, Any, Any]:
        if task.is_async:
            coroutine: Coroutine[Any, Any, Any] = task.function(**arguments)
            return coroutine
        return self._in_thread(task, arguments)

    async def _in_thread(self, task: tasks.Task, arguments: dict[str, Any]) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, copy_context().run, _call_plain, task, arguments)


_AGAIN: Final = NextMove.RETRY_AFTER


def _call_plain(task: tasks.Task, arguments: dict[str, Any]) -> Any:
    try:
        return task.function(**arguments)
    except StopIteration as error:  # a future cannot carry it: whoever awaits would wait for ever
        raise RuntimeError("the task raised StopIteration") from error
