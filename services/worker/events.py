"""Owns the names of the worker's log events."""

from enum import StrEnum


class Event(StrEnum):
    """Every log event of the worker."""

    TASKS_REGISTERED = "tasks.registered"
    TASK_FAILED = "task.failed"
