"""Owns the metrics of inference: what its engines do, what waits before them, and how long requests took.

Names follow vLLM's where it has one (`vllm:num_requests_running` is `penstock_engine_requests_running`), which is
what dashboards and autoscalers for models know; but times count from the request's arrival on its topic, since that is
when its caller began to wait. Labels are pools, lanes, engines and the models that engines serve: all from settings.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from enum import StrEnum
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as CoreMetric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from services.inference.answering import Result
from services.inference.core.lanes import URGENT_FIRST
from services.inference.station import Stations
from services.inference.tickets import Ticket


class InferenceMetric(StrEnum):
    """Every metric of inference."""

    RUNNING = "penstock_engine_requests_running"
    """Requests in the engine (pool, engine); vllm:num_requests_running."""
    WAITING = "penstock_engine_requests_waiting"
    """Requests fetched and not in the engine yet; the rest is lag (pool, engine, lane); vllm:num_requests_waiting."""
    ADMITTED = "penstock_engine_requests_admitted"
    """Places that are taken: in the engine, or about to be (pool, engine)."""
    BATCH_LIMIT = "penstock_engine_batch_limit"
    """How many requests the control law lets into the engine at a time (pool, engine)."""
    BATCH_EFFICIENCY = "penstock_engine_batch_efficiency"
    """Places taken of those that the law allows, 0 to 1 (pool, engine)."""
    KV_USAGE = "penstock_engine_kv_cache_usage_perc"
    """Share of the KV cache in use, 0 to 1 (pool, engine); vllm:kv_cache_usage_perc."""
    KV_RESERVED = "penstock_engine_kv_tokens_reserved"
    """Tokens of the cache that are reserved for prompts and expected answers (pool, engine)."""
    PREEMPTIONS = "penstock_engine_preemptions_total"
    """Requests that the engine put out of its batch, to be computed again (pool, engine); vllm:num_preemptions."""
    PREFIX_QUERIES = "penstock_engine_prefix_cache_queries_total"
    """Prompt tokens looked up in the prefix cache (pool, engine); vllm:prefix_cache_queries."""
    PREFIX_HITS = "penstock_engine_prefix_cache_hits_total"
    """Prompt tokens found there (pool, engine); vllm:prefix_cache_hits."""
    QUEUE_SECONDS = "penstock_inference_queue_time_seconds"
    """From arrival on the topic until the engine was asked (pool, lane, model); vllm:request_queue_time_seconds."""
    FIRST_TOKEN_SECONDS = "penstock_inference_time_to_first_token_seconds"
    """From arrival to the first token (pool, lane, model); vllm:time_to_first_token_seconds."""
    INTER_TOKEN_SECONDS = "penstock_inference_inter_token_latency_seconds"
    """Between two tokens of an answer, its mean (pool, lane, model); vllm:inter_token_latency_seconds."""
    TOKENS = "penstock_inference_tokens_total"
    """Tokens of calls, by kind: input, cached_input, output, reasoning (pool, lane, model, kind)."""
    EXPECTATION = "penstock_inference_output_tokens_of_expected"
    """Output tokens as a share of what was expected; over 1: it outgrew its reservation (pool, lane, model)."""


LONG_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 640, 2560)
TOKEN_BUCKETS: Final = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1)
SHARE_BUCKETS: Final = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2, 4)
KINDS: Final = ("input", "cached_input", "output", "reasoning")


class _Distribution:
    """Observations by bucket, as a scrape shows them; the client's own histogram costs as much as an engine's step."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds: Final = bounds
        self._counts: Final = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        names = [*map(floatToGoString, self._bounds), "+Inf"]
        family.add_metric(labels, list(zip(names, accumulate(self._counts), strict=True)), self._sum)


class _Series:
    """What was seen of one lane and model."""

    __slots__ = ("distributions", "expectation", "first_token", "inter_token", "queue", "tokens")

    def __init__(self) -> None:
        self.queue: Final = _Distribution(LONG_BUCKETS)
        self.first_token: Final = _Distribution(LONG_BUCKETS)
        self.inter_token: Final = _Distribution(TOKEN_BUCKETS)
        self.expectation: Final = _Distribution(SHARE_BUCKETS)
        self.distributions: Final = (self.queue, self.first_token, self.inter_token, self.expectation)
        self.tokens: Final = [0] * len(KINDS)


class InferenceInstruments(Collector):
    """The metrics of one instance on one registry. Read by the thread that serves them."""

    def __init__(self, registry: CollectorRegistry, pool: str, stations: Stations) -> None:
        self._pool: Final = pool
        self._series: Final[dict[tuple[str, str], _Series]] = {}
        registry.register(self)
        registry.register(_Engines(pool, stations))

    def called(self, ticket: Ticket, result: Result) -> None:
        """A request that reached an engine has its answer, or its failure."""
        model, usage = ticket.work.request.model, result.usage
        series = self._series.get((ticket.lane, model))
        if series is None:
            series = self._series[ticket.lane, model] = _Series()
        queue_seconds = max(0, result.started_at_ms - ticket.work.requested_at_ms) / 1000
        series.queue.observe(queue_seconds)
        tokens = series.tokens
        tokens[0] += usage.input
        tokens[1] += usage.cached_input
        tokens[2] += usage.output
        tokens[3] += usage.reasoning
        if result.first_token_ms is None:
            return
        series.first_token.observe(queue_seconds + result.first_token_ms / 1000)
        output = usage.output + usage.reasoning
        if output > 1:
            series.inter_token.observe(max(0.0, result.elapsed_ms - result.first_token_ms) / 1000 / (output - 1))
        if result.generation is not None and ticket.expected_tokens:
            series.expectation.observe(output / ticket.expected_tokens)

    def collect(self) -> Iterable[CoreMetric]:
        """What a scrape reads."""
        labels = ["pool", "lane", "model"]
        families = [HistogramMetricFamily(metric, what, labels=labels) for metric, what in _DISTRIBUTIONS]
        tokens = CounterMetricFamily(InferenceMetric.TOKENS, "Tokens of calls", labels=[*labels, "kind"])
        for (lane, model), series in list(self._series.items()):
            of = (self._pool, lane, model)
            for family, distribution in zip(families, series.distributions, strict=True):
                distribution.add_to(family, of)
            for kind, count in zip(KINDS, series.tokens, strict=True):
                tokens.add_metric([*of, kind], count)
        return [*families, tokens]


_DISTRIBUTIONS: Final = (
    (InferenceMetric.QUEUE_SECONDS, "Arrival to engine"),
    (InferenceMetric.FIRST_TOKEN_SECONDS, "Arrival to first token"),
    (InferenceMetric.INTER_TOKEN_SECONDS, "Token to token"),
    (InferenceMetric.EXPECTATION, "Output over expected"),
)
"""In the order of a series' distributions."""


class _Engines(Collector):
    """Asks the engines when somebody scrapes; costs nothing in between."""

    def __init__(self, pool: str, stations: Stations) -> None:
        self._pool: Final = pool
        self._stations: Final = stations

    def collect(self) -> Iterable[CoreMetric]:
        """What a scrape reads."""
        labels = ["pool", "engine"]

        def gauge(metric: InferenceMetric, what: str, *more: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(metric, what, labels=[*labels, *more])

        running = gauge(InferenceMetric.RUNNING, "Requests in the engine")
        waiting = gauge(InferenceMetric.WAITING, "Requests before the engine", "lane")
        admitted = gauge(InferenceMetric.ADMITTED, "Places taken")
        limit = gauge(InferenceMetric.BATCH_LIMIT, "Places allowed")
        efficiency = gauge(InferenceMetric.BATCH_EFFICIENCY, "Places taken of those allowed")
        usage = gauge(InferenceMetric.KV_USAGE, "KV cache in use")
        reserved = gauge(InferenceMetric.KV_RESERVED, "KV tokens reserved")
        preemptions = CounterMetricFamily(InferenceMetric.PREEMPTIONS, "Put out of the batch", labels=labels)
        queries = CounterMetricFamily(InferenceMetric.PREFIX_QUERIES, "Prompt tokens looked up", labels=labels)
        hits = CounterMetricFamily(InferenceMetric.PREFIX_HITS, "Prompt tokens found", labels=labels)
        for station in self._stations:
            of, load, gate = [self._pool, station.engine.name], station.engine.load(), station.gate
            running.add_metric(of, load.running)
            for lane in URGENT_FIRST:
                waiting.add_metric([*of, lane], gate.schedule.count(lane))
            admitted.add_metric(of, gate.taken)
            limit.add_metric(of, gate.control.limit)
            efficiency.add_metric(of, min(1.0, gate.taken / gate.control.limit))
            if load.kv_tokens_max and load.kv_tokens_used is not None:
                usage.add_metric(of, load.kv_tokens_used / load.kv_tokens_max)
            reserved.add_metric(of, gate.budget.reserved)
            preemptions.add_metric(of, load.preemptions)
            queries.add_metric(of, load.prefix_tokens_asked)
            hits.add_metric(of, load.prefix_tokens_hit)
        return [running, waiting, admitted, limit, efficiency, usage, reserved, preemptions, queries, hits]
