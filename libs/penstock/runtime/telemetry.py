"""Owns what a service says about itself: log lines, metric names, trace context."""

import contextlib
import logging
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from itertools import accumulate
from typing import Any, Literal

import orjson
import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as CoreMetric
from prometheus_client.registry import Collector

Log = structlog.typing.FilteringBoundLogger


class Metric(StrEnum):
    """Every metric of the runtime. Lag goes by kafka_exporter's names, which dashboards and scalers know."""

    CONSUMERGROUP_LAG = "kafka_consumergroup_lag"
    """Records from the first unfinished one to the partition's end (consumergroup, topic, partition)."""
    CONSUMERGROUP_LAG_SUM = "kafka_consumergroup_lag_sum"
    """The same, summed over this consumer's partitions of a topic (consumergroup, topic)."""
    IN_FLIGHT = "penstock_records_in_flight"
    """Records whose handler runs now (consumergroup)."""
    BUFFERED = "penstock_records_buffered"
    """Records fetched that wait for a free handler (consumergroup)."""
    HANDLED = "penstock_records_handled_total"
    """Records finished, by outcome: done, remembered, dead_lettered (consumergroup, topic, outcome)."""
    HANDLER_SECONDS = "penstock_handler_seconds"
    """How long a record took from its start to the acknowledgement of its outputs (consumergroup, topic)."""
    BATCH_SECONDS = "penstock_batch_seconds"
    """How long the owner took for one batch (consumergroup)."""
    BATCH_RECORDS = "penstock_batch_records"
    """How many records a batch held (consumergroup)."""
    PUBLISHED = "penstock_records_published_total"
    """Records that the broker acknowledged (topic)."""
    NOT_ACKNOWLEDGED = "penstock_records_not_acknowledged_total"
    """Records given up on, which their sender was told (topic)."""
    PUBLISHER_PENDING_BYTES = "penstock_publisher_pending_bytes"
    """Bytes sent and not acknowledged yet."""
    PRODUCERS_CREATED = "penstock_producers_created_total"
    """Idempotent producers made; more than one means errors that broke a sequence."""


class LogEvent(StrEnum):
    """Every log event of the runtime."""

    SERVICE_STARTED = "service.started"
    SERVICE_STOPPING = "service.stopping"
    SERVICE_STOPPED = "service.stopped"
    SERVICE_FAILED = "service.failed"
    BROKER_AWAITED = "broker.awaited"
    POSTGRES_AWAITED = "postgres.awaited"
    BLOB_STORE_AWAITED = "blob_store.awaited"
    MIGRATION_APPLIED = "migration.applied"
    TOPIC_CREATED = "topic.created"
    PARTITIONS_ASSIGNED = "partitions.assigned"
    PARTITIONS_REVOKED = "partitions.revoked"
    PARTITIONS_TAKEN_OVER = "partitions.taken_over"
    OWNER_FENCED = "owner.fenced"
    OWNER_AWAITED = "owner.awaited"
    DRAIN_EXCEEDED = "drain.exceeded"
    COMMIT_FAILED = "commit.failed"
    FETCH_FAILED = "fetch.failed"
    LOOKED_BACK = "lookback.done"
    LOOK_BACK_CUT = "lookback.cut"
    HANDLER_FAILED = "handler.failed"
    RECORD_DEAD_LETTERED = "record.dead_lettered"
    RECORDS_NOT_ACKNOWLEDGED = "records.not_acknowledged"
    PRODUCER_RECREATED = "producer.recreated"
    TOPIC_AWAITED = "topic.awaited"
    WORK_STOPPED = "work.stopped"
    CANCEL_UNREADABLE = "cancel.unreadable"


HANDLER_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600)
REPEAT_SECONDS = 30.0
REPEATS_MAX = 1000
BATCH_RECORDS_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class LagCollector(Collector):
    """Asks the consumers for their lag when somebody scrapes; costs nothing in between."""

    def __init__(self) -> None:
        self._sources: list[Callable[[], Mapping[tuple[str, str, int], int]]] = []

    def add(self, source: Callable[[], Mapping[tuple[str, str, int], int]]) -> None:
        """A consumer that answers its lag by (group, topic, partition)."""
        self._sources.append(source)

    def collect(self) -> Iterable[CoreMetric]:
        """What a scrape reads."""
        lag = GaugeMetricFamily(
            Metric.CONSUMERGROUP_LAG, "Records not finished", labels=["consumergroup", "topic", "partition"]
        )
        total = GaugeMetricFamily(
            Metric.CONSUMERGROUP_LAG_SUM, "Records not finished", labels=["consumergroup", "topic"]
        )
        sums: dict[tuple[str, str], int] = {}
        for source in self._sources:
            for (group, topic, partition), count in source().items():
                lag.add_metric([group, topic, str(partition)], count)
                sums[group, topic] = sums.get((group, topic), 0) + count
        for (group, topic), count in sums.items():
            total.add_metric([group, topic], count)
        return [lag, total]


class Tally:
    """The records of one group and topic, counted in plain numbers: locks per record would cost more than counting."""

    __slots__ = ("_buckets", "_handled", "_seconds")

    def __init__(self, outcomes: Iterable[str]) -> None:
        self._buckets = [0] * (len(HANDLER_BUCKETS) + 1)
        self._seconds = 0.0
        self._handled = dict.fromkeys(outcomes, 0)  # a rise is seen only by who saw the zero before it

    def count(self, outcome: str, seconds: float) -> None:
        """One record is finished."""
        self._buckets[bisect_left(HANDLER_BUCKETS, seconds)] += 1
        self._seconds += seconds
        self._handled[outcome] += 1

    def add_to(self, seconds: HistogramMetricFamily, handled: CounterMetricFamily, labels: list[str]) -> None:
        """Its samples. Read by the thread that serves metrics, while records are counted."""
        bounds = [*map(str, map(float, HANDLER_BUCKETS)), "+Inf"]
        seconds.add_metric(labels, [*zip(bounds, accumulate(self._buckets), strict=True)], self._seconds)
        for outcome, count in self._handled.items():
            handled.add_metric([*labels, outcome], count)


class TallyCollector(Collector):
    """Reads the tallies when somebody scrapes."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str], Tally] = {}

    def add(self, group_id: str, topic: str, outcomes: Iterable[str]) -> Tally:
        """The tally of a group's topic, whose records end in one of these ways."""
        tally = self._tallies[group_id, topic] = Tally(outcomes)
        return tally

    def collect(self) -> Iterable[CoreMetric]:
        """What a scrape reads."""
        labels = ["consumergroup", "topic"]
        seconds = HistogramMetricFamily(Metric.HANDLER_SECONDS, "Start to acknowledged outputs", labels=labels)
        handled = CounterMetricFamily(Metric.HANDLED, "Records finished", labels=[*labels, "outcome"])
        for (group_id, topic), tally in list(self._tallies.items()):
            tally.add_to(seconds, handled, [group_id, topic])
        return [seconds, handled]


class Instruments:
    """The runtime's metrics on one registry, made once per process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(metric: Metric, what: str, *labels: str) -> Counter:
            return Counter(metric.removesuffix("_total"), what, labels, registry=registry)

        self.registry = registry
        self.lag = LagCollector()
        registry.register(self.lag)
        self.in_flight = Gauge(Metric.IN_FLIGHT, "Handlers running", ["consumergroup"], registry=registry)
        self.buffered = Gauge(Metric.BUFFERED, "Records waiting for a handler", ["consumergroup"], registry=registry)
        self.tallies = TallyCollector()
        registry.register(self.tallies)
        self.batch_seconds = Histogram(Metric.BATCH_SECONDS, "One batch", ["consumergroup"], registry=registry)
        self.batch_records = Histogram(
            Metric.BATCH_RECORDS,
            "Records in a batch",
            ["consumergroup"],
            buckets=BATCH_RECORDS_BUCKETS,
            registry=registry,
        )
        self.published = counter(Metric.PUBLISHED, "Records acknowledged", "topic")
        self.not_acknowledged = counter(Metric.NOT_ACKNOWLEDGED, "Records given up on", "topic")
        self.pending_bytes = Gauge(Metric.PUBLISHER_PENDING_BYTES, "Bytes not yet acknowledged", registry=registry)
        self.producers_created = counter(Metric.PRODUCERS_CREATED, "Idempotent producers made")


class _SaidLately(logging.Filter):
    """A client that cannot reach its broker says so ten times a second; once in a while is enough."""

    def __init__(self) -> None:
        super().__init__()
        self._said_at: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line has not been said for a while."""
        text = record.getMessage()
        if record.created - self._said_at.get(text, 0.0) < REPEAT_SECONDS:
            return False
        if len(self._said_at) >= REPEATS_MAX:
            self._said_at.clear()
        self._said_at[text] = record.created
        return True


def logger(name: str) -> Log:
    """A logger of one module or part."""
    log: Log = structlog.get_logger(part=name)
    return log


def configure_logging(log_format: Literal["auto", "json", "console"], level: str, **fields: str) -> None:
    """Readable on a terminal, one JSON object a line otherwise; `fields` stand on every line."""
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    structlog.contextvars.clear_contextvars()

    def add_fields(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        for name, value in fields.items():
            event.setdefault(name, value)
        return event

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        add_fields,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_to_json)]
    )
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(number, logging.INFO))
    handler.addFilter(_SaidLately())
    for chatty in ("aiokafka", "httpx", "httpcore", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(max(number, logging.WARNING))


def _to_json(event: Any, **_: Any) -> str:
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


@contextlib.contextmanager
def bound(*, run: str | None = None, step: str | None = None, request: str | None = None) -> Iterator[None]:
    """Every log line inside names the run, the step and the request."""
    fields = {name: value for name, value in (("run", run), ("step", step), ("request", request)) if value is not None}
    tokens = structlog.contextvars.bind_contextvars(**fields)
    try:
        yield
    finally:
        structlog.contextvars.reset_contextvars(**tokens)


_TRACE_CONTEXT = TraceContextTextMapPropagator()


def context_from(traceparent: str | None) -> Context:
    """The OpenTelemetry context of a `traceparent`; an empty one where there is none or it is malformed."""
    return _TRACE_CONTEXT.extract({} if traceparent is None else {"traceparent": traceparent}, context=Context())


def traceparent_of(context: Context | None = None) -> str | None:
    """The `traceparent` of a context, else of the current span; None where nothing is traced."""
    carrier: dict[str, str] = {}
    _TRACE_CONTEXT.inject(carrier, context=context)
    return carrier.get("traceparent")


def traceparent_in(headers: Iterable[tuple[str, bytes]]) -> str | None:
    """The `traceparent` header of a record, if it is text."""
    for name, value in headers:
        if name == "traceparent":
            return value.decode("ascii", errors="replace")
    return None


def tracer(name: str) -> trace.Tracer:
    """A tracer of one module; does nothing until an exporter is configured."""
    return trace.get_tracer(f"penstock.{name}")
