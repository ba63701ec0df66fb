"""Runs the worker: the user's task modules are imported, then their queues are consumed."""

import importlib
import sys

from penstock.contracts.topics import TASK_COMPLETED, TASK_REQUESTED, Service
from penstock.runtime.blobs import Blobs
from penstock.runtime.clock import now_ms
from penstock.runtime.executor import execute
from penstock.runtime.kafka.cancellations import Cancellations
from penstock.runtime.large_values import LargeValues
from penstock.runtime.service import Context, run_service
from penstock.runtime.work import Answers
from penstock.workflow import task as tasks
from services.worker.events import Event
from services.worker.runner import TaskRunner
from services.worker.settings import WorkerSettings
from services.worker.threads import DaemonThreads


async def main(context: Context[WorkerSettings]) -> None:
    """Consumes until stopped."""
    settings = context.settings
    sys.path.insert(0, "")  # task modules may lie in the folder that the worker is started from
    for module in settings.worker_task_modules:
        importlib.import_module(module)
    context.log.info(Event.TASKS_REGISTERED, tasks=tasks.registered())
    threads = DaemonThreads(settings.worker_threads)
    answers = Answers(context.service, TASK_COMPLETED, "task", settings.instance)
    cancellations = Cancellations()
    large = LargeValues(Blobs(settings.blob_url), now_ms)
    runner = TaskRunner(answers, threads, large, settings.home_partitions, now_ms, cancellations)
    groups = {f"penstock.worker.{queue}": [TASK_REQUESTED.named(queue=queue)] for queue in settings.worker_queues}
    try:
        await execute(
            context,
            groups,
            runner.handle,
            answers,
            in_flight_max=settings.worker_in_flight,
            cancellations=cancellations,
        )
    finally:
        threads.shutdown(wait=False)


if __name__ == "__main__":
    run_service(Service.WORKER, WorkerSettings, main)
