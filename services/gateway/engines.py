"""Owns the table of engines: the last valid report of each, as it is heard, and its sums for each pool.

It is kept in memory and read anew from the topic at every start: a report is void half a minute after it was made.
"""

from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from pydantic import ValidationError

from penstock.contracts.envelope import MalformedEnvelopeError, decode
from penstock.contracts.messages import CapacityReported
from penstock.runtime.kafka.aside import Aside
from penstock.runtime.kafka.records import Received
from penstock.runtime.telemetry import logger
from services.gateway.telemetry import LogEvent
from services.gateway.telemetry import Metric as Name

UP: Final = "up"


class Engines(Collector):
    """What engines say of themselves. As a collector it gives the pools' sums to Prometheus."""

    def __init__(self, now_ms: Callable[[], int], aside: Aside) -> None:
        self._now_ms: Final = now_ms
        self._aside: Final = aside
        self._reports: Final[dict[str, CapacityReported]] = {}
        self._log: Final = logger("engines")

    async def take(self, record: Received) -> None:
        """A record of the topic; one that cannot be read is set aside."""
        try:
            _, body = decode(
                record.topic, record.partition, record.offset, record.timestamp, record.headers, record.value
            )
            report = CapacityReported.model_validate_json(body)
        except (MalformedEnvelopeError, ValidationError) as error:
            self._log.warning(LogEvent.RECORD_REFUSED, topic=record.topic, offset=record.offset, reason=str(error))
            await self._aside.put(record, f"not a CapacityReported: {type(error).__name__}")
            return
        self._reports[report.engine] = report
        self._forget_the_void()

    def reports(self) -> list[CapacityReported]:
        """Those that are valid, by pool and engine."""
        self._forget_the_void()
        return sorted(self._reports.values(), key=lambda report: (report.pool, report.engine))

    def collect(self) -> Iterator[Metric]:
        """The pools' gauges."""
        engines = GaugeMetricFamily(Name.POOL_ENGINES, "Engines by health", labels=["pool", "state"])
        gauges = {
            name: GaugeMetricFamily(name, text, labels=["pool"])
            for name, text in (
                (Name.POOL_REQUESTS, "Requests in engines"),
                (Name.POOL_REQUESTS_BEST, "Requests that are worth having in engines"),
                (Name.POOL_BACKLOG_TOKENS, "Tokens of requests in engines and before them"),
                (Name.POOL_TOKENS_PER_SECOND, "Tokens per second of late"),
                (Name.POOL_TOKENS_PER_SECOND_BEST, "Tokens per second at best"),
            )
        }
        by_pool: dict[str, list[CapacityReported]] = {}
        for report in self.reports():
            by_pool.setdefault(report.pool, []).append(report)
        for pool, reports in by_pool.items():
            states = [report.health.state for report in reports]
            for state in sorted(set(states)):
                engines.add_metric([pool, state], states.count(state))
            up = [report for report in reports if report.health.state == UP]
            for name, value in _sums(up).items():
                gauges[name].add_metric([pool], value)
        yield engines
        yield from gauges.values()

    def _forget_the_void(self) -> None:
        at_seconds = self._now_ms() / 1000
        for engine in [name for name, report in self._reports.items() if report.expires_at.timestamp() <= at_seconds]:
            del self._reports[engine]


def _sums(up: list[CapacityReported]) -> dict[Name, float]:
    """Of the engines that take work. What an engine does not know counts as nothing."""
    return {
        Name.POOL_REQUESTS: sum(report.requests_in_flight for report in up),
        Name.POOL_REQUESTS_BEST: sum(report.requests_best or 0 for report in up),
        Name.POOL_BACKLOG_TOKENS: sum(report.tokens_in_flight + report.tokens_waiting for report in up),
        Name.POOL_TOKENS_PER_SECOND: sum(report.tokens_per_second for report in up),
        Name.POOL_TOKENS_PER_SECOND_BEST: sum(report.tokens_per_second_best or 0.0 for report in up),
    }
