"""Owns what a child run carries of the step that asked for it."""

from typing import Annotated
from uuid import UUID

from pydantic import Field

from penstock.contracts.body import Count, Message, RunId


class ParentStep(Message):
    """The step that asked for a child run; both runs are of one tenant."""

    run_id: RunId
    home: Count
    """The parent's partition, where its answer goes."""
    step: str
    request_id: UUID
    """Of the attempt that asked; only its answer is awaited."""
    depth: Annotated[int, Field(ge=1)]
    """The child's: 1 where the parent was asked for from outside."""
    awaited: bool = True
    """False: the step went on at once, and nobody is to be told of the end."""
