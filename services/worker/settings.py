"""Owns the worker's settings."""

from pydantic import Field

from penstock.runtime.settings import Names, ServiceSettings


class WorkerSettings(ServiceSettings):
    """One worker runs the tasks of its modules, for its queues."""

    worker_task_modules: Names = Field(default=(), description="modules to import, whose @task functions are run")
    worker_queues: Names = ("default",)
    """The queues this worker reads, of PENSTOCK_QUEUES."""
    worker_threads: int = Field(default=8, ge=1, le=256, description="plain functions that run at a time")
    worker_in_flight: int = Field(default=256, ge=1, le=10_000, description="tasks that run at a time, per queue")
