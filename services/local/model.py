"""Owns the model part: the process that serves the small model, ready when it says so."""

import os
import sys

from services.local import probes
from services.local.part import Note, PartSpec
from services.local.ports import LOOPBACK
from services.local.process import Command
from services.local.settings import python_environment

MODEL_NAME = "smollm2-135m"
SLOTS = 4
CONTEXT_TOKENS = 2_048
THREADS_MAX = 8
NICENESS = 5
"""It computes on every core; what is next to it on a small machine must get a word in."""


def model_part(port: int) -> PartSpec:
    """SmolLM2-135M on llama.cpp, behind an OpenAI-compatible endpoint."""

    async def prepare(_: Note) -> Command:
        return Command(
            arguments=(
                *(sys.executable, "-m", "services.local.model_server"),
                *("--port", str(port), "--name", MODEL_NAME),
                *("--slots", str(SLOTS), "--context-tokens", str(CONTEXT_TOKENS)),
                *("--threads", str(min(os.cpu_count() or 1, THREADS_MAX))),
            ),
            environment=python_environment(),
            niceness=NICENESS,
        )

    async def ready() -> None:
        await probes.http_ok(port, "/health")

    return PartSpec(name="model", prepare=prepare, ready=ready, stop_seconds=5.0, ports={"port": port})


def model_url(port: int) -> str:
    """The base URL for an OpenAI client."""
    return f"http://{LOOPBACK}:{port}/v1"
