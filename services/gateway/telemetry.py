"""Owns what the gateway says about itself: its log events and metric names."""

from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class LogEvent(StrEnum):
    """Every log event of the gateway."""

    LISTENING = "gateway.listening"
    BATCH_AWAITED = "gateway.batch_awaited"
    """Postgres did not take a batch; it is tried again until it does."""
    RECORD_REFUSED = "gateway.record_refused"
    COMMIT_SKIPPED = "gateway.commit_skipped"
    BROKER_AWAITED = "gateway.broker_awaited"
    ROWS_EXPIRED = "gateway.rows_expired"
    AUDIT_FAILED = "gateway.audit_failed"
    SETTLING_FAILED = "gateway.settling_failed"
    EXPIRY_FAILED = "gateway.expiry_failed"
    REQUEST_FAILED = "gateway.request_failed"
    NEWS_AWAITED = "gateway.news_awaited"
    """No connection to hear what other gateways write: open streams look by themselves, every second."""


class Metric(StrEnum):
    """Every metric of the gateway."""

    READ_SIDE_RECORDS = "penstock_read_side_records_total"
    """Records written to the read models, or refused (topic, outcome)."""
    READ_SIDE_BATCH_SECONDS = "penstock_read_side_batch_seconds"
    """How long one batch took from its records to its commit."""
    LEDGER_DIFFERENCE = "penstock_ledger_difference"
    """What the ledger has too much (positive) or too little for the time of engines that were closed within a day
    (pool, gpu_type, currency). 0 where all is well."""
    POOL_ENGINES = "penstock_pool_engines"
    """Engines by the health that they report (pool, state)."""
    POOL_REQUESTS = "penstock_pool_requests_in_flight"
    """Requests in engines that take work, as they report it (pool)."""
    POOL_REQUESTS_BEST = "penstock_pool_requests_best"
    """How many are worth having there (pool)."""
    POOL_BACKLOG_TOKENS = "penstock_pool_backlog_tokens"
    """Tokens of the requests in engines that take work and fetched for them, at most (pool)."""
    POOL_TOKENS_PER_SECOND = "penstock_pool_tokens_per_second"
    """Tokens per second of late (pool)."""
    POOL_TOKENS_PER_SECOND_BEST = "penstock_pool_tokens_per_second_best"
    """Tokens per second at best, of the engines that know it (pool)."""
    LIVE_STREAMS = "penstock_live_streams"
    """Open event streams."""


class Instruments:
    """The gateway's metrics on one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.records = Counter(
            Metric.READ_SIDE_RECORDS.removesuffix("_total"), "Records read", ["topic", "outcome"], registry=registry
        )
        self.batch_seconds = Histogram(Metric.READ_SIDE_BATCH_SECONDS, "One batch", registry=registry)
        self.ledger_difference = Gauge(
            Metric.LEDGER_DIFFERENCE,
            "Usage costs that engine time does not explain",
            ["pool", "gpu_type", "currency"],
            registry=registry,
        )
        self.live_streams = Gauge(Metric.LIVE_STREAMS, "Open event streams", registry=registry)
