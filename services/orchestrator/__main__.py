"""Owns the start of the orchestrator's process: `python -m services.orchestrator`."""

from penstock.contracts.topics import Service
from penstock.runtime.service import run_service
from services.orchestrator.settings import OrchestratorSettings
from services.orchestrator.shell.process import orchestrate

if __name__ == "__main__":
    run_service(Service.ORCHESTRATOR, OrchestratorSettings, orchestrate)
