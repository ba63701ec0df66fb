"""Owns the orchestrator's settings."""

from decimal import Decimal
from typing import Annotated, Any

import orjson
from pydantic import BeforeValidator, Field

from penstock.runtime.settings import Names, PostgresSettings, ServiceSettings
from penstock.workflow.parts import Caps, Money


def _from_json(value: Any) -> Any:
    """A variable is text; left empty it says nothing."""
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value) if value.strip() else {}
    except orjson.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None


def _burst_budgets() -> dict[str, Caps]:
    return {"*": Caps(cost=Money(amount=Decimal(20)))}


Budgets = Annotated[dict[str, Caps], BeforeValidator(_from_json)]


class OrchestratorSettings(ServiceSettings, PostgresSettings):
    """PENSTOCK_ORCHESTRATOR_…, and what all services share."""

    orchestrator_batch_records_max: int = Field(1_000, ge=1, le=100_000)
    """Records per batch, and so per transaction."""
    orchestrator_runs_cached_max: int = Field(20_000, ge=1)
    """Runs kept in memory; others are loaded when something happens to them."""
    orchestrator_sends_max: int = Field(8, ge=1, le=1_000)
    """Batches sent and not yet acknowledged; at this many the orchestrator waits for the broker."""
    orchestrator_retention_hours: float = Field(168.0, gt=0)
    """How long a finished run can still be redriven; after that its rows are deleted."""
    orchestrator_blob_retention_hours: float = Field(1_440.0, gt=0)
    """How long a blob in a local folder is kept after it was last written: longer than any run that may use it."""
    orchestrator_tenant_budgets: Budgets = Field(default_factory=dict)
    """What a tenant may use each UTC day, as JSON: {"acme": {"cost": …, "tokens": …, "model_calls": …}, "*": {…}}."""
    orchestrator_burst_budgets: Budgets = Field(default_factory=_burst_budgets)
    """What calls may cost that burst, per tenant and UTC day, in the same form; {} is no limit."""
    orchestrator_tenants: Names = ()
    """The tenants that may run workflows; empty: any."""
