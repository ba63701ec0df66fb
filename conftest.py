"""Owns the fixtures that start real parts: `stack` for a shared Kafka and Postgres, `system` for all services."""

from collections.abc import AsyncIterator
from importlib.util import find_spec

import pytest
from hypothesis import HealthCheck, settings

from services.local.fixtures import SharedStack, shared_stack
from services.local.system import Systems, systems

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("long", settings.get_profile("untimed"), max_examples=3_000)
settings.load_profile("untimed")  # a busy machine is no reason to fail


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The real engine has an environment of its own: where it is not installed, its tests are no part of the suite."""
    if find_spec("vllm") is not None:
        return
    absent = [item for item in items if item.get_closest_marker("vllm")]
    if absent:
        config.hook.pytest_deselected(items=absent)
        items[:] = [item for item in items if not item.get_closest_marker("vllm")]


@pytest.fixture(scope="session")
async def stack() -> AsyncIterator[SharedStack]:
    """Real Kafka and real Postgres, started once; tests that use it are marked `stack`."""
    async with shared_stack() as shared:
        yield shared


@pytest.fixture
async def system() -> AsyncIterator[Systems]:
    """Starts a system of its own: `running = await system(worker=2)`; stopped after the test."""
    async with systems() as factory:
        yield factory


@pytest.fixture(scope="module")
async def module_system() -> AsyncIterator[Systems]:
    """The same for all tests of a module."""
    async with systems() as factory:
        yield factory
