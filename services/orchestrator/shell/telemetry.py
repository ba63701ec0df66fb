"""Owns the names of what the orchestrator says about itself, over and above the runtime's."""

from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge


class OrchestratorEvent(StrEnum):
    """Every log event of the orchestrator."""

    HOMES_OWNED = "homes.owned"
    OUTBOX_RESENT = "outbox.resent"
    OUTBOX_LEFT = "outbox.left"
    DEFINITION_TAKEN = "definition.taken"
    DEFINITION_REFUSED = "definition.refused"
    ALIAS_TAKEN = "alias.taken"
    DEFINITIONS_WAITING = "definitions.waiting"
    UNDECIDABLE = "batch.undecidable"
    ALARM_ORPHANED = "alarm.orphaned"
    RUNS_REMOVED = "runs.removed"
    BLOBS_REMOVED = "blobs.removed"
    BLOB_UNREADABLE = "blob.unreadable"
    """A decision needed to look into a blob that is missing or corrupt: what needed it fails, and says so."""
    RETENTION_WAITING = "retention.waiting"
    RUN_AMPLIFIED = "run.amplified"
    """A run has made more than three times as many calls as 95 % of its workflow's last runs did."""
    TENANT_BUDGET_USED_UP = "tenant.budget_used_up"
    """A tenant's cap for the day has no more to give: calls that do not fit what is left are not sent."""
    SURPLUS_KEPT = "tenant.surplus_kept"
    BREAKER_CHANGED = "breaker.changed"
    """A route is left alone from now on, or used again."""
    CROWD_CHANGED = "crowd.changed"
    """A route's engines are too far behind from now on, or no more: its tier's calls burst, or stay."""
    CAPACITY_REFUSED = "capacity.refused"
    """A report of an engine's room that cannot be read."""


class OrchestratorMetric(StrEnum):
    """Every metric of the orchestrator."""

    RUNS_STARTED = "penstock_runs_started_total"
    """Runs that began."""
    RUNS_FINISHED = "penstock_runs_finished_total"
    """By status."""
    STEPS_REQUESTED = "penstock_steps_requested_total"
    """Attempts asked for, by kind."""
    ALARMS = "penstock_alarms"
    """Runs that wait for a point in time."""
    RUNS_CACHED = "penstock_runs_cached"
    """Runs in memory."""
    CALLS_IN_FLIGHT = "penstock_route_calls_in_flight"
    """Model calls asked for by this instance and not answered yet (route)."""
    RUNS_AMPLIFIED = "penstock_runs_amplified_total"
    """Runs that made more than three times as many calls as 95 % of their workflow's last runs did (workflow)."""
    TENANT_BUDGETS_USED_UP = "penstock_tenant_budget_used_up_total"
    """How often a tenant's cap for the day was found to have no more to give (tenant, cap)."""
    BREAKERS_CHANGED = "penstock_breaker_changes_total"
    """Breakers that opened or closed (route, state)."""
    CROWDS_CHANGED = "penstock_route_crowd_changes_total"
    """Routes whose engines fell too far behind, or caught up (route, state)."""
    ROUTE_ENGINES = "penstock_route_engines"
    """Engines that take work, as they report it (route)."""


class OrchestratorInstruments:
    """The orchestrator's metrics on one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.runs_started = Counter(
            OrchestratorMetric.RUNS_STARTED.removesuffix("_total"), "Runs started", registry=registry
        )
        self.runs_finished = Counter(
            OrchestratorMetric.RUNS_FINISHED.removesuffix("_total"), "Runs ended", ["status"], registry=registry
        )
        self.steps_requested = Counter(
            OrchestratorMetric.STEPS_REQUESTED.removesuffix("_total"), "Attempts asked for", registry=registry
        )
        self.alarms = Gauge(OrchestratorMetric.ALARMS, "Runs waiting for a point in time", registry=registry)
        self.calls_in_flight = Gauge(
            OrchestratorMetric.CALLS_IN_FLIGHT, "Model calls in flight", ["route"], registry=registry
        )
        self.runs_amplified = Counter(
            OrchestratorMetric.RUNS_AMPLIFIED.removesuffix("_total"),
            "Runs with far more calls than their workflow's others",
            ["workflow"],
            registry=registry,
        )
        self.tenant_budgets_used_up = Counter(
            OrchestratorMetric.TENANT_BUDGETS_USED_UP.removesuffix("_total"),
            "Tenants' caps found used up",
            ["tenant", "cap"],
            registry=registry,
        )
        self.breakers_changed = Counter(
            OrchestratorMetric.BREAKERS_CHANGED.removesuffix("_total"),
            "Breakers that opened or closed",
            ["route", "state"],
            registry=registry,
        )
        self.crowds_changed = Counter(
            OrchestratorMetric.CROWDS_CHANGED.removesuffix("_total"),
            "Routes whose engines fell behind or caught up",
            ["route", "state"],
            registry=registry,
        )
        self.route_engines = Gauge(
            OrchestratorMetric.ROUTE_ENGINES, "Engines that take work", ["route"], registry=registry
        )
        self.runs_cached = Gauge(OrchestratorMetric.RUNS_CACHED, "Runs in memory", registry=registry)
