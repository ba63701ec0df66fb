"""Owns the connections to an OpenAI-compatible endpoint: many small pools, because one large one is slow.

httpx's pool looks at all of its connections for each request that comes and goes, so a request's cost grows with their
number: docs/decisions has what was measured.
"""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import httpx

POOL_CONNECTIONS: Final = 4
KEEPALIVE_SECONDS: Final = 2.0
"""Below the five seconds after which llama.cpp and uvicorn close an idle connection under our next request."""


class Pools:
    """As many calls at a time as there are connections: each takes the pool that has the fewest."""

    def __init__(
        self,
        base_url: str,
        headers: dict[str, str],
        connections: int,
        connect_seconds: float,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        trust: Final = httpx.create_ssl_context(trust_env=False)  # read once: it takes longer than a call
        sizes = [POOL_CONNECTIONS] * (connections // POOL_CONNECTIONS)
        if connections % POOL_CONNECTIONS:
            sizes.append(connections % POOL_CONNECTIONS)
        self._clients: Final = [_client(base_url, headers, size, connect_seconds, trust, transport) for size in sizes]
        self.probing: Final = _client(base_url, headers, 1, connect_seconds, trust, transport)
        """For probes, which must not wait behind calls."""
        self._calls: Final = [0] * len(self._clients)
        self._sizes: Final = sizes

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client with a connection to spare, or the one that has the shortest queue for one."""
        index = min(range(len(self._calls)), key=lambda each: self._calls[each] - self._sizes[each])
        self._calls[index] += 1
        try:
            yield self._clients[index]
        finally:
            self._calls[index] -= 1

    async def close(self) -> None:
        """Closes all connections."""
        for client in (*self._clients, self.probing):
            await client.aclose()


def _client(
    base_url: str,
    headers: dict[str, str],
    connections: int,
    connect_seconds: float,
    trust: ssl.SSLContext,
    transport: httpx.AsyncBaseTransport | None,
) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=base_url,
        headers=headers,
        timeout=httpx.Timeout(None, connect=connect_seconds),  # the deadline bounds the call as a whole
        limits=httpx.Limits(
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=KEEPALIVE_SECONDS,
        ),
        verify=trust,
        transport=transport,
        trust_env=False,
    )
