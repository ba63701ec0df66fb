"""Owns how the five services run as parts: their command, their environment, and when they are ready."""

import sys
from collections.abc import Mapping
from pathlib import Path

from penstock.contracts.topics import Service
from services.local import probes
from services.local.model import MODEL_NAME, SLOTS, model_url
from services.local.options import Options
from services.local.part import Note, PartSpec
from services.local.ports import LOOPBACK
from services.local.process import Command
from services.local.settings import penstock_environment, python_environment
from services.local.stack import LocalStack

SERVICES = (Service.ORCHESTRATOR, Service.INFERENCE, Service.TOOL_EXECUTOR, Service.WORKER, Service.GATEWAY)
DATABASE_OWNERS = (Service.ORCHESTRATOR, Service.GATEWAY)
SIMULATED_CONCURRENCY = 256
DRAIN_MARGIN_SECONDS = 10.0
DRAIN_SECONDS = 20.0


def part_name(service: Service, index: int) -> str:
    """`worker-0`: what a process of a service is called everywhere."""
    return f"{service.value}-{index}"


def gateway_url(stack: LocalStack, options: Options) -> str:
    """Where people and HTTP clients enter."""
    return f"http://{LOOPBACK}:{_gateway_port(stack, options, 0)}"


def add_services(stack: LocalStack, options: Options) -> None:
    """Add all processes of all services."""
    for service in SERVICES:
        for index in range(getattr(options.counts, service.value)):
            add_service(stack, options, service, index)


def add_service(stack: LocalStack, options: Options, service: Service, index: int) -> None:
    """Add one process of a service."""
    name = part_name(service, index)
    health_port = stack.ports.port(f"{name}.health")
    environment = _environment(stack, options, service, index, health_port)
    ports = {"health_port": health_port}
    if service is Service.GATEWAY:
        ports["port"] = _gateway_port(stack, options, index)

    async def prepare(_: Note) -> Command:
        return Command(
            arguments=(sys.executable, "-m", f"services.{service.value}"),
            environment=environment,
            directory=Path.cwd(),
        )

    async def ready() -> None:
        await probes.http_ok(health_port, "/readyz")

    stack.add(
        PartSpec(
            name=name,
            prepare=prepare,
            ready=ready,
            needs=("kafka", "postgres") if service in DATABASE_OWNERS else ("kafka",),
            stop_seconds=DRAIN_SECONDS + DRAIN_MARGIN_SECONDS,
            ports=ports,
        )
    )


def _environment(
    stack: LocalStack, options: Options, service: Service, index: int, health_port: int
) -> Mapping[str, str]:
    own: dict[str, str] = {
        "PENSTOCK_KAFKA_BOOTSTRAP_SERVERS": stack.bootstrap_servers,
        "PENSTOCK_HEALTH_PORT": str(health_port),
        "PENSTOCK_BLOB_URL": stack.blob_url,
        "PENSTOCK_INSTANCE": part_name(service, index),
        "PENSTOCK_DRAIN_SECONDS": str(DRAIN_SECONDS),
        "PENSTOCK_POOLS": ",".join(options.pools),
        "PENSTOCK_QUEUES": ",".join(options.queues),
        "PENSTOCK_HOME_PARTITIONS": str(options.home_partitions),
        "PENSTOCK_WORK_PARTITIONS": str(options.work_partitions),
        "PENSTOCK_READ_SIDE_PARTITIONS": str(options.read_side_partitions),
    }
    if service in DATABASE_OWNERS:
        own["PENSTOCK_POSTGRES_URL"] = stack.postgres_url(f"penstock_{service.value}")
    own |= _own_settings(stack, options, service, index)
    # A shell may hold a cluster's addresses: ours win over it. What was asked for this stack wins over ours.
    chosen = dict(options.environment) | dict(options.service_environment.get(service.value, {}))
    return python_environment() | penstock_environment() | own | chosen


def _own_settings(stack: LocalStack, options: Options, service: Service, index: int) -> dict[str, str]:
    match service:
        case Service.INFERENCE if options.model == "real":
            return {
                "PENSTOCK_INFERENCE_ENGINE": "openai",
                "PENSTOCK_INFERENCE_BASE_URL": model_url(stack.ports.port("model")),
                "PENSTOCK_INFERENCE_MODEL": MODEL_NAME,
                "PENSTOCK_INFERENCE_CONCURRENCY": str(SLOTS),
                "PENSTOCK_INFERENCE_POOL": options.pools[0],
            }
        case Service.INFERENCE:
            return {
                "PENSTOCK_INFERENCE_ENGINE": "simulated",
                "PENSTOCK_INFERENCE_CONCURRENCY": str(SIMULATED_CONCURRENCY),
                "PENSTOCK_INFERENCE_POOL": options.pools[index % len(options.pools)],
            }
        case Service.TOOL_EXECUTOR if options.tool_servers:
            return {"PENSTOCK_TOOL_EXECUTOR_SERVERS": str(options.tool_servers.resolve())}
        case Service.WORKER:
            modules = ",".join(options.task_modules)
            return {"PENSTOCK_WORKER_QUEUES": ",".join(options.queues)} | (
                {"PENSTOCK_WORKER_TASK_MODULES": modules} if modules else {}
            )
        case Service.GATEWAY:
            return {
                "PENSTOCK_GATEWAY_HOST": LOOPBACK,
                "PENSTOCK_GATEWAY_PORT": str(_gateway_port(stack, options, index)),
            }
        case _:
            return {}


def _gateway_port(stack: LocalStack, options: Options, index: int) -> int:
    return stack.ports.port(part_name(Service.GATEWAY, index), options.gateway_port if index == 0 else None)
