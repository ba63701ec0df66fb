"""Owns watching a run through the gateway: its live events until its end, and its trace afterwards."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final

import httpx

from penstock.contracts.messages import RunFinished, RunProgressed

APPEAR_SECONDS: Final = 60.0
LEDGER_SECONDS: Final = 15.0
AGAIN_SECONDS: Final = 0.3


class NotVisibleError(RuntimeError):
    """The gateway does not know the run, or cannot be reached; the message says which."""


class Gateway:
    """The gateway's HTTP API, as far as an example needs it."""

    def __init__(self, url: str) -> None:
        self._client = httpx.AsyncClient(base_url=url, timeout=httpx.Timeout(10.0, read=60.0), trust_env=False)

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def events(self, run_id: str) -> AsyncGenerator[RunProgressed | RunFinished, None]:
        """Everything that happens to a run, each thing once, until its end. Raises NotVisibleError."""
        loop_time = asyncio.get_running_loop().time
        failing_since: float | None = None
        seen = -1
        while True:
            try:
                async for event in self._stream(run_id, seen):
                    failing_since = None
                    yield event
                    if isinstance(event, RunFinished):
                        return
                    seen = event.sequence
            except (httpx.HTTPError, NotVisibleError) as error:
                # A run that was asked for on Kafka takes a moment to reach the read side; a gateway may restart.
                failing_since = failing_since or loop_time()
                if loop_time() - failing_since > APPEAR_SECONDS:
                    raise NotVisibleError(f"{self._client.base_url}: {error}") from error
            await asyncio.sleep(AGAIN_SECONDS)

    async def trace(self, run_id: str, model_calls: int) -> dict[str, Any]:
        """The run with its steps, once the ledger has all its model calls (or after LEDGER_SECONDS, with a part)."""
        loop_time = asyncio.get_running_loop().time
        give_up_at = loop_time() + LEDGER_SECONDS
        while True:
            response = await self._client.get(f"/v1/runs/{run_id}")
            response.raise_for_status()
            run: dict[str, Any] = response.json()
            known = sum(len(step["attempts"]) for step in run["steps"] if step["kind"] == "model")
            if known >= model_calls or loop_time() > give_up_at:
                return run
            await asyncio.sleep(AGAIN_SECONDS)

    async def cancel(self, run_id: str, reason: str) -> None:
        """Ask for a run to be cancelled."""
        response = await self._client.post(f"/v1/runs/{run_id}/cancel", json={"reason": reason})
        response.raise_for_status()

    async def _stream(self, run_id: str, seen: int) -> AsyncIterator[RunProgressed | RunFinished]:
        headers = {"last-event-id": str(seen)} if seen >= 0 else {}
        async with self._client.stream("GET", f"/v1/runs/{run_id}/events", headers=headers) as response:
            if response.status_code != httpx.codes.OK:
                raise NotVisibleError(f"status {response.status_code} for run {run_id}")
            name, data = "", list[str]()
            async for line in response.aiter_lines():
                field, _, value = line.partition(":")
                match field, line:
                    case "event", _:
                        name = value.strip()
                    case "data", _:
                        data.append(value.removeprefix(" "))
                    case _, "":
                        event = _event(name, "\n".join(data))
                        name, data = "", []
                        if event is not None:
                            yield event
                    case _:
                        pass


def _event(name: str, data: str) -> RunProgressed | RunFinished | None:
    match name:
        case "progress":
            return RunProgressed.model_validate_json(data)
        case "finished":
            return RunFinished.model_validate_json(data)
        case _:
            return None
