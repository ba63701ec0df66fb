"""Owns the system that the flow tests share: one of each service, a scripted engine, four tenants."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from penstock.testkit.engine import scripted_engine
from penstock.testkit.traffic import Traffic, traffic
from services.local.fixtures import temporary_folder
from services.local.system import systems

TENANTS = "default,acme,blue-river,thrifty"
BUDGETS = '{"thrifty": {"model_calls": 3}}'


@pytest.fixture(scope="session")
async def flow() -> AsyncIterator[Traffic]:
    """Started once for all tests here; they stay apart by the names of their runs and workflows."""
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(scripted_engine())
        folder = await stack.enter_async_context(temporary_folder())
        factory = await stack.enter_async_context(systems())
        running = await factory(
            tool_executor=0,
            gateway=0,
            tasks=["penstock.testkit.counted"],
            environment={},
            service_environment={
                "orchestrator": {
                    "PENSTOCK_ORCHESTRATOR_TENANTS": TENANTS,
                    "PENSTOCK_ORCHESTRATOR_TENANT_BUDGETS": BUDGETS,
                },
                "inference": {
                    "PENSTOCK_INFERENCE_ENGINE": "openai",
                    "PENSTOCK_INFERENCE_BASE_URL": engine.url,
                    "PENSTOCK_INFERENCE_MODEL": "smollm2-135m,second",
                },
            },
        )
        yield await stack.enter_async_context(traffic(running.bootstrap_servers, running.deployment, engine, folder))
