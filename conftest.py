"""Owns the fixtures that start real parts: `stack` (Kafka and Postgres for the whole session)."""

from collections.abc import AsyncIterator

import pytest

from services.local.fixtures import SharedStack, shared_stack


@pytest.fixture(scope="session")
async def stack() -> AsyncIterator[SharedStack]:
    """Real Kafka and real Postgres, started once; tests that use it are marked `stack`."""
    async with shared_stack() as shared:
        yield shared
