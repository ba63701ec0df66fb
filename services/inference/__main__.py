"""Runs inference: one engine, one pool, its lanes urgent first."""

import asyncio
import contextlib

from penstock.contracts.topics import INFERENCE_COMPLETED, Service
from penstock.runtime.clock import now_ms
from penstock.runtime.executor import execute
from penstock.runtime.service import Context, run_service
from penstock.runtime.work import Answers
from services.inference.caller import ModelCaller
from services.inference.core import lanes
from services.inference.settings import InferenceSettings
from services.inference.watch import EngineWatch


async def main(context: Context[InferenceSettings]) -> None:
    """Consumes from the moment that the engine answers until stopped."""
    settings = context.settings
    engine = settings.engine()
    watch = EngineWatch(engine, context.health)
    answers = Answers(context.service, INFERENCE_COMPLETED, "inference", settings.instance)
    caller = ModelCaller(engine, watch, settings.billing(), answers, settings.limits(), now_ms)
    probing = asyncio.create_task(watch.run())
    try:
        await watch.wait_first(context.stop)
        groups = {f"penstock.inference.{settings.inference_pool}": lanes.topics(settings.inference_pool)}
        await execute(
            context, groups, caller.handle, answers, in_flight_max=lanes.fetched_max(settings.inference_concurrency)
        )
    finally:
        probing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await probing
        await engine.close()


if __name__ == "__main__":
    run_service(Service.INFERENCE, InferenceSettings, main)
