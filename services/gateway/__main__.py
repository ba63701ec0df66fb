"""Runs the gateway."""

from penstock.contracts.topics import Service
from penstock.runtime.service import run_service
from services.gateway.service import main
from services.gateway.settings import GatewaySettings

if __name__ == "__main__":
    run_service(Service.GATEWAY, GatewaySettings, main)
