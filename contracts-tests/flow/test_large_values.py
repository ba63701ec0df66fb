"""Owns the promise that a value's size changes nothing but how it travels, through real processes and faults."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from penstock.contracts.blobs import VALUE_BYTES_MAX, reference_of
from penstock.testkit.blob_folder import bring_back, damage, stored, take_away
from penstock.testkit.traffic import counted_step
from services.local.system import System, Systems

pytestmark = [pytest.mark.stack, pytest.mark.slow]

WAIT_SECONDS = 90.0
DOCUMENT = "Water runs downhill, and a penstock carries it. " * 6_400

COPY = {
    "name": "copy",
    "input": {
        "type": "object",
        "required": ["document", "ledger", "gate"],
        "properties": {"document": {"type": "string"}, "ledger": {"type": "string"}, "gate": {"type": "string"}},
    },
    "do": {
        "id": "main",
        "chain": [
            counted_step("wait", input={"gate": "{{ input.gate }}", "milliseconds": 0}),
            counted_step("first", input={"value": "{{ input.document }}", "milliseconds": 0}),
            {"id": "enough", "check": "first.value | length > 100"},
            counted_step("second", input={"value": "{{ first.value }}", "milliseconds": 0}),
        ],
        "output": {"copied": "{{ second.value }}", "letters": "{{ first.value | length }}"},
    },
}


@dataclass(frozen=True, slots=True)
class Copying:
    """A system that knows the workflow, its blobs' folder, and a client of its gateway."""

    system: System
    blobs: Path
    http: httpx.AsyncClient
    folder: Path

    def given(self, run_id: str, document: str = DOCUMENT) -> dict[str, Any]:
        """What a run is asked for with; it waits for its gate."""
        given = {"document": document, "ledger": str(self.folder / "ledger"), "gate": str(self.gate(run_id))}
        return {"workflow": "copy", "run_id": run_id, "tenant": "acme", "input": given}

    def gate(self, run_id: str) -> Path:
        """The file that lets a run go on."""
        return self.folder / f"gate-{run_id}"

    async def begun(self, run_id: str, document: str = DOCUMENT) -> None:
        """A run that waits for its gate."""
        answer = await self.http.post("/v1/runs", json=self.given(run_id, document))
        assert answer.status_code == 202, answer.text
        await self.until(run_id, lambda run: run["status"] == "running" and run["steps"])

    async def until(self, run_id: str, holds: Any) -> dict[str, Any]:
        """The run, as soon as it is as it should be."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                answer = await self.http.get(f"/v1/runs/{run_id}", params={"tenant": "acme"})
                if answer.status_code == 200 and holds(answer.json()):
                    run: dict[str, Any] = answer.json()
                    return run
                await asyncio.sleep(0.1)

    async def ended(self, run_id: str) -> dict[str, Any]:
        """The run at its end."""
        return await self.until(run_id, lambda run: run["status"] in ("completed", "failed"))

    async def said(self, service: str, what: str) -> None:
        """Wait until a service has logged something."""
        async with asyncio.timeout(WAIT_SECONDS):
            while what not in self.system.logs(service):  # noqa: ASYNC110 - a log file tells nobody
                await asyncio.sleep(0.1)


@pytest.fixture(scope="module")
async def copying(module_system: Systems, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Copying]:
    system = await module_system(tool_executor=0, inference=0, tasks=["penstock.testkit.counted"])
    folder = tmp_path_factory.mktemp("copying")
    async with httpx.AsyncClient(base_url=system.gateway_url, timeout=WAIT_SECONDS) as http:
        answer = await http.put("/v1/workflows/copy", json=COPY)
        assert answer.status_code == 201, answer.text
        yield Copying(system, system.stack.data / "blobs", http, folder)


async def test_a_large_document_goes_through_all_steps_and_back(copying: Copying) -> None:
    await copying.begun("large")
    copying.gate("large").touch()

    run = await copying.ended("large")

    assert run["status"] == "completed", run["error"]
    assert run["output"]["letters"] == len(DOCUMENT)
    reference = reference_of(run["output"]["copied"])
    assert reference is not None
    address = f"/v1/blobs/sha256:{reference.digest}"
    read = await copying.http.get(address, params={"tenant": "acme", "media_type": reference.media_type})
    assert (read.status_code, read.json()) == (200, DOCUMENT)
    # the same document of all steps is one blob, and no other tenant's
    assert [path.name for path in stored(copying.blobs / "acme")] == [reference.digest]
    assert (await copying.http.get(address)).status_code == 404


async def test_what_is_too_large_is_refused_at_the_door_with_its_path(copying: Copying) -> None:
    answer = await copying.http.post("/v1/runs", json=copying.given("huge", "x" * (20 * 1024 * 1024)))

    assert answer.status_code == 413
    problem = answer.json()
    assert problem["code"] == "value_too_large"
    assert problem["errors"][0]["path"] == "$.input.document"
    assert str(VALUE_BYTES_MAX) in problem["detail"]


async def test_while_the_store_is_away_work_waits_and_nothing_is_lost(copying: Copying) -> None:
    document = "away " + DOCUMENT
    await copying.begun("patient", document)
    take_away(copying.blobs)
    copying.gate("patient").touch()

    await copying.said("worker", "blob_store.awaited")
    refused = await copying.http.post("/v1/runs", json=copying.given("refused", document))
    assert (refused.status_code, refused.json()["code"]) == (503, "blob_store_away")
    bring_back(copying.blobs)

    run = await copying.ended("patient")
    assert run["status"] == "completed", run["error"]
    assert [step["attempt"] for step in run["steps"] if step["kind"] == "task"] == [1, 1, 1]


async def test_a_damaged_document_is_a_failure_that_says_so(copying: Copying) -> None:
    await copying.begun("damaged", "damaged " + DOCUMENT)
    damage(copying.blobs)
    copying.gate("damaged").touch()

    run = await copying.ended("damaged")

    assert (run["status"], run["error"]["code"], run["error"]["step"]) == ("failed", "blob_unreadable", "main/first")
    assert "is corrupt" in run["error"]["message"]
