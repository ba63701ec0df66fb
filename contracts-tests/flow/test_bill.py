"""Owns the promise to finance: what the ledger says and the hours of the accelerators agree to the cent.

Recorded traffic with failures, cancelled runs and four lives of one engine, one of them ended by SIGKILL.
"""

import asyncio
import csv
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from penstock.contracts.topics import Service
from services.local.fixtures import temporary_folder
from services.local.system import System, systems

pytestmark = [pytest.mark.stack, pytest.mark.chaos, pytest.mark.slow]

CENT = Decimal("0.01")
PRICE_PER_HOUR = Decimal(3600)
"""So that a cent is ten milliseconds of one accelerator."""
GPUS = 2
TALK = {
    "name": "talk",
    "version": "1",
    "input": {"type": "object", "required": ["topic"], "properties": {"topic": {"type": "string"}}},
    "tiers": {"small": [{"pool": "small", "model": "m"}]},
    "do": {
        "id": "main",
        "chain": [
            {"id": "draft", "model": "small", "prompt": "Write on {{ input.topic }}.", "max_tokens": 60},
            {"id": "polish", "model": "small", "prompt": "Polish: {{ draft }}", "max_tokens": 30},
        ],
    },
}


class Client:
    """Speaks to the gateway as a user does."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def start(self, prefix: str, count: int, **fields: Any) -> list[str]:
        run_ids = [f"{prefix}-{number}" for number in range(count)]
        for run_id in run_ids:
            body = {"workflow": "talk", "input": {"topic": run_id}, "run_id": run_id, "labels": {"life": prefix}}
            answer = await self._http.post("/v1/runs", json=body | fields)
            assert answer.status_code == 202, answer.text
        return run_ids

    async def cancel(self, run_ids: list[str]) -> None:
        for run_id in run_ids:
            assert (await self._http.post(f"/v1/runs/{run_id}/cancel", json={})).is_success

    async def publish(self) -> None:
        assert (await self._http.put("/v1/workflows/talk", json=TALK)).is_success

    async def ended(self, run_ids: list[str]) -> dict[str, str]:
        """Their statuses once all have ended."""
        statuses: dict[str, str] = {}

        async def all_ended() -> bool:
            for run_id in run_ids:
                statuses[run_id] = (await self._http.get(f"/v1/runs/{run_id}")).json()["status"]
            return not {"requested", "running"} & set(statuses.values())

        await until(all_ended)
        return statuses

    async def get(self, path: str) -> Any:
        answer = await self._http.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()


async def penstock(system: System, *arguments: str) -> str:
    """What the command prints."""
    environment = {**os.environ, "PENSTOCK_GATEWAY_URL": system.gateway_url, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.cli", *arguments, env=environment, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    return said.decode()


async def until(holds: Callable[[], Any], seconds: float = 90) -> None:
    async with asyncio.timeout(seconds):
        while not await holds():  # noqa: ASYNC110 - there is no push
            await asyncio.sleep(0.1)


@pytest.fixture
async def system() -> AsyncIterator[System]:
    """One of each service, its engine simulated and paid by the hour."""
    async with temporary_folder() as folder, systems() as factory:
        prices = folder / "prices.yaml"
        hardware = {"test-gpu": {"price_per_hour": str(PRICE_PER_HOUR)}}
        prices.write_text(yaml.safe_dump({"version": "t1", "effective": "2026-11-21", "hardware": hardware}))
        yield await factory(tool_executor=0, worker=0, service_environment={"inference": _engine(prices)})


def _engine(prices: Path) -> dict[str, str]:
    return {
        "PENSTOCK_INFERENCE_ENGINE": "simulated",
        "PENSTOCK_INFERENCE_MODEL": "m",
        "PENSTOCK_INFERENCE_CONCURRENCY": "4",
        "PENSTOCK_INFERENCE_SIMULATED_SPEED": "0.3",
        "PENSTOCK_INFERENCE_BILLING": "hour",
        "PENSTOCK_INFERENCE_HARDWARE": "test-gpu",
        "PENSTOCK_INFERENCE_GPUS": str(GPUS),
        "PENSTOCK_INFERENCE_PRICES": str(prices),
        "PENSTOCK_INFERENCE_ACCOUNT_SECONDS": "0.2",
    }


async def test_the_ledger_and_the_hours_of_the_accelerators_agree_to_the_cent(system: System, tmp_path: Path) -> None:
    async with httpx.AsyncClient(base_url=system.gateway_url, timeout=30) as http:
        client = Client(http)
        await client.publish()

        # given traffic in an engine's first life, some of it cancelled, some without the time it needs
        soon = (datetime.now(UTC) + timedelta(seconds=0.8)).isoformat()
        hurried = await client.start("hurried", 3, deadline=soon)
        await client.ended(hurried)
        in_vain = await client.start("cancelled", 3)
        await until(lambda: _calls_are_in(client))
        await client.cancel(in_vain)
        await client.ended(in_vain)
        first = await client.start("first", 6)
        assert set((await client.ended(first)).values()) == {"completed"}

        # and an orderly end, a life that is killed with calls in it, and another orderly end in the middle of work
        await system.restart(Service.INFERENCE)
        second = await client.start("second", 8)
        await until(lambda: _calls_are_in(client))
        await system.restart(Service.INFERENCE, number=signal.SIGKILL)
        third = await client.start("third", 4)
        await system.restart(Service.INFERENCE)
        assert set((await client.ended(second + third)).values()) == {"completed"}
        await system.kill(Service.INFERENCE, number=signal.SIGTERM)

        # when the ledger is closed against the time of the engine's lives
        await until(lambda: _all_told(client))
        (pool,) = (await client.get("/v1/costs/reconciled"))["pools"]
        costs = await client.get("/v1/costs?by=kind,gpu_type")
        shown = json.loads(await penstock(system, "costs", "--reconcile", "--json"))["pools"]
        exported = tmp_path / "focus.csv"
        await penstock(system, "costs", "export", "--since", "1d", "-o", str(exported))

    # then each second of them is somebody's, idle, lost or down, and none is paid twice
    lives = pool["lives"]
    assert [life["state"] for life in lives] == ["closed", "lost", "closed", "closed"]
    assert [Decimal(life["difference"]) for life in lives] == [0, 0, 0, 0]
    rented = datetime.fromisoformat(lives[-1]["until"]) - datetime.fromisoformat(lives[0]["since"])
    bill = Decimal(rented // timedelta(microseconds=1)) / 3_600_000_000 * PRICE_PER_HOUR * GPUS
    parts = {name: Decimal(pool[name]) for name in ("attributed", "idle", "lost", "down", "pending")}
    assert abs(sum(parts.values()) - bill) < CENT
    assert abs(Decimal(pool["bill"]) - bill) < CENT
    assert Decimal(pool["difference"]) == parts["pending"] == 0
    assert min(parts["attributed"], parts["idle"], parts["lost"], parts["down"]) > 0

    # and the command and the export say the same
    assert [{**each, "lives": []} for each in shown] == [{**pool, "lives": []}]
    charges = list(csv.DictReader(exported.read_text().splitlines()))
    assert abs(sum(Decimal(charge["BilledCost"]) for charge in charges) - bill) < CENT
    assert {charge["x_CostKind"] for charge in charges} == {"usage", "idle", "lost", "down"}

    # and what is attributed is the sum of the ledger
    assert sum(Decimal(line["cost"]) for line in costs["lines"]) == parts["attributed"]
    assert 0 < sum(Decimal(line["wasted"]["total"]) for line in costs["lines"]) < parts["attributed"]


async def _calls_are_in(client: Client) -> bool:
    """The account of the life that goes on has cost that nobody has borne yet."""
    pools = (await client.get("/v1/costs/reconciled"))["pools"]
    return any(life["state"] == "open" and Decimal(life["pending"]) > 0 for pool in pools for life in pool["lives"])


async def _all_told(client: Client) -> bool:
    """Every life has ended, and what it said last has been read."""
    pools = (await client.get("/v1/costs/reconciled"))["pools"]
    lives = [life for pool in pools for life in pool["lives"]]
    return len(lives) == 4 and all(life["state"] != "open" and Decimal(life["difference"]) == 0 for life in lives)
