"""Owns what a decision may know beside its run: the shell gives it, and the same facts lead to the same decision."""

from dataclasses import dataclass
from typing import Final

from services.orchestrator.core.allowance import Allowance
from services.orchestrator.core.breakers import Breakers
from services.orchestrator.core.contents import Contents


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known while an event is decided on; deciding changes nothing of it."""

    routes: Breakers | None = None
    """None: every route is free."""
    tenant: Allowance | None = None
    """None: the tenant has no budget."""
    contents: Contents | None = None
    """None: no value is a reference to a blob."""
    burst: Allowance | None = None
    """What the tenant may spend on calls that burst. None: whatever it takes."""


NO_FACTS: Final = Facts()
