"""Tests of what inference says in numbers about its calls and engines."""

import asyncio
from dataclasses import replace

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import HistogramMetricFamily

from penstock.contracts.messages import TokenUsage
from penstock.contracts.topics import INFERENCE_COMPLETED, Service
from penstock.runtime.kafka.cancellations import Cancellations
from penstock.runtime.work import Answers
from penstock.testkit.received import Record
from services.inference.caller import Limits, ModelCaller
from services.inference.engines.protocol import EngineLoad
from services.inference.station import Stations
from services.inference.telemetry import InferenceInstruments, InferenceMetric, _Distribution
from services.inference.tests.scripted import AT_MS, ScriptedEngine, a_request, a_station, says

SERIES = {"pool": "small", "lane": "batch", "model": "m"}
ENGINE = {"pool": "small", "engine": "scripted"}


class LoadedEngine(ScriptedEngine):
    """An engine that says how full it is."""

    def load(self) -> EngineLoad:
        return EngineLoad(
            running=self.inside,
            kv_tokens_used=250,
            kv_tokens_max=1000,
            preemptions=3,
            prefix_tokens_asked=100,
            prefix_tokens_hit=40,
        )


async def test_calls_and_engines_are_measured_under_the_names_that_are_documented() -> None:
    # given an instance
    engine, registry = LoadedEngine(), CollectorRegistry()
    engine.answer = replace(says("hello"), usage=TokenUsage(input=6, cached_input=4, output=8))
    stations = Stations([a_station(engine)])
    caller = ModelCaller(
        stations,
        Answers(Service.INFERENCE, INFERENCE_COMPLETED, "inference", "i-1"),
        Limits("small", 4),
        lambda: AT_MS,
        Cancellations(),
        instruments=InferenceInstruments(registry, "small", stations),
    )

    # when a call is answered, one never reaches the engine, and one is in it
    await caller.handle(Record(a_request(1).to_json(), timestamp=AT_MS - 2_000))
    await caller.handle(Record(a_request(2, model="other").to_json(), timestamp=AT_MS - 2_000))
    engine.held.clear()
    engine.entered.clear()
    held = asyncio.create_task(caller.handle(Record(a_request(3).to_json(), timestamp=AT_MS)))
    await engine.entered.wait()

    # then
    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    assert value(f"{InferenceMetric.QUEUE_SECONDS}_sum", **SERIES) == 2.0
    assert value(f"{InferenceMetric.FIRST_TOKEN_SECONDS}_sum", **SERIES) == 2.0015
    assert value(f"{InferenceMetric.INTER_TOKEN_SECONDS}_count", **SERIES) == 1
    assert value(f"{InferenceMetric.EXPECTATION}_sum", **SERIES) == 8 / 16
    kinds = {kind: value(InferenceMetric.TOKENS, **SERIES, kind=kind) for kind in ("input", "cached_input", "output")}
    assert kinds == {"input": 6, "cached_input": 4, "output": 8}
    assert value(InferenceMetric.RUNNING, **ENGINE) == 1
    assert value(InferenceMetric.KV_USAGE, **ENGINE) == 0.25
    assert value(InferenceMetric.PREEMPTIONS, **ENGINE) == 3
    assert value(InferenceMetric.PREFIX_HITS, **ENGINE) == 40
    exported = {sample.name for family in registry.collect() for sample in family.samples}
    assert {name for name in InferenceMetric if not any(each.startswith(name) for each in exported)} == set()
    engine.held.set()
    await held


def test_a_distribution_shows_what_the_clients_own_histogram_would() -> None:
    # given values between, on and beyond the bounds
    values, bounds = (0.05, 0.1, 0.2, 1.0, 7.0), (0.1, 1.0, 2.5)
    ours, theirs = _Distribution(bounds), Histogram("h", "what", ["lane"], buckets=bounds, registry=None)

    # when both observe them
    family = HistogramMetricFamily("h", "what", labels=["lane"])
    for value in values:
        ours.observe(value)
        theirs.labels("batch").observe(value)
    ours.add_to(family, ["batch"])

    # then a scrape reads the same
    (expected,) = theirs.collect()
    told = {(sample.name, sample.labels.get("le")): sample.value for sample in family.samples}
    assert told == {
        (sample.name, sample.labels.get("le")): sample.value
        for sample in expected.samples
        if not sample.name.endswith("_created")
    }
