"""Owns how far an audit is: folded from the run's progress records, in whatever pieces they come."""

import re
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from penstock.contracts.messages import RunProgressed, RunUsage, StepChange, StepPhase

_STEP: Final = re.compile(r"/documents\[(\d+)\]/")
LAST_STEP: Final = "summarise"


def document_of(step: str) -> int | None:
    """The place of the document that a step works on; None for a step of the whole run."""
    found = _STEP.search(step)
    return None if found is None else int(found[1])


@dataclass(slots=True)
class Progress:
    """The audit as its viewer sees it."""

    total: int
    done: set[int] = field(default_factory=set)
    failed: dict[int, str] = field(default_factory=dict)
    begun: set[int] = field(default_factory=set)
    usage: RunUsage = field(default_factory=RunUsage)
    status: str = "requested"
    retries: int = 0

    @property
    def ended(self) -> int:
        """Documents that are audited or given up on."""
        return len(self.done) + len(self.failed)

    @property
    def tokens(self) -> int:
        """Prompt and answer tokens of all finished calls."""
        return self.usage.input_tokens + self.usage.output_tokens

    @property
    def cost(self) -> Decimal:
        """What the finished calls cost."""
        return self.usage.cost.amount

    def take(self, record: RunProgressed) -> list[str]:
        """Fold a record in; answers with the reasons of documents that it ended in failure."""
        self.usage = record.usage
        self.status = record.status
        return [reason for change in record.changes if (reason := self._take_change(change)) is not None]

    def _take_change(self, change: StepChange) -> str | None:
        document = document_of(change.step)
        if document is None:
            return None
        step = change.step.rpartition("/")[2]
        self.begun.add(document)
        if change.phase is StepPhase.RETRYING:
            self.retries += 1
        elif change.phase is StepPhase.COMPLETED and step == LAST_STEP:
            self.done.add(document)
        elif change.phase is StepPhase.FAILED and document not in self.failed:
            reason = "no reason given" if change.error is None else f"{change.error.code}: {change.error.message}"
            self.failed[document] = reason
            return f"document {document + 1} failed at {step}: {reason}"
        return None
