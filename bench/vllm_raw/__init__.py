"""Owns the hold on the raw side of `make bench-vllm`: the process that drives the engine, told what to measure."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any


class Raw:
    """The engine driven raw. It costs nothing between two measurements."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def measured(self, in_flight: int, seconds: float) -> dict[str, Any]:
        """One level."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps([in_flight, seconds])}\n".encode())
        return await self.heard()

    async def heard(self) -> dict[str, Any]:
        """Its next word; other lines are vLLM's."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            if line.startswith(b"{"):
                said: dict[str, Any] = json.loads(line)
                return said
        raise RuntimeError("the raw side has ended")


@asynccontextmanager
async def driven_raw(options: dict[str, Any]) -> AsyncIterator[Raw]:
    """A process with an engine of its own, ready."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.vllm_raw", json.dumps(options)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        raw = Raw(process)
        await raw.heard()
        yield raw
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
