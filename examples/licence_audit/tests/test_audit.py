"""Owns the tests of whole audits, through real processes: with the simulated engine, and with the real small model."""

from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from examples.licence_audit.__main__ import TASK_MODULE
from examples.licence_audit.audit import audit
from examples.licence_audit.documents import in_folder, select
from examples.licence_audit.report import HONEST, MADE_UP
from examples.licence_audit.tasks import Table
from penstock.contracts.messages import RunFinished
from services.local.options import Model
from services.local.system import Systems

AT = datetime(2026, 11, 1, tzinfo=UTC)
MIT = "MIT License\n\nPermission is hereby granted, free of charge, to any person obtaining a copy of this software."
BSD = "Redistribution and use in source and binary forms, with or without modification, are permitted."


async def audited(system: Systems, folder: Path, model: Model) -> tuple[RunFinished, str]:
    running = await system(model=model, tasks=[TASK_MODULE], tool_executor=0)
    told = StringIO()
    console = Console(file=told, width=200)
    selection = select(in_folder(folder), None)
    finished = await audit(running.bootstrap_servers, running.gateway_url, selection, "audit-1", AT, console)
    return finished, told.getvalue()


@pytest.mark.stack
@pytest.mark.slow
async def test_a_folder_is_audited_with_the_simulated_engine(system: Systems, tmp_path: Path) -> None:
    # given five documents, one of them not UTF-8 and one empty
    (tmp_path / "bsd.txt").write_text(BSD)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "gpl.txt").write_text("GNU GENERAL PUBLIC LICENSE\nVersion 3\n\nYou must give recipients the source.")
    (tmp_path / "mit.txt").write_text(MIT)
    (tmp_path / "old.txt").write_bytes("Lizenz für alle. You must keep this notice.".encode("cp1252"))

    # when they are audited
    finished, told = await audited(system, tmp_path, "simulated")

    # then the run completed, the empty one failed alone and says why, the old one was read and that is told
    assert finished.status == "completed"
    table = Table.model_validate(finished.output)
    assert [row.package for row in table.rows] == ["bsd.txt", "empty.txt", "gpl.txt", "mit.txt", "old.txt"]
    assert [row.error is None for row in table.rows] == [True, False, True, True, True]
    assert (table.rows[1].error or "").startswith("document_empty: ")
    assert table.rows[4].note == "not UTF-8, read as cp1252"
    assert finished.usage.model_calls >= 12

    # and the report names all of them, and never passes a simulation off as a model
    assert "4 of 5 distinct documents were audited" in told
    assert "document_empty" in told
    assert "not UTF-8, read as cp1252" in told
    assert MADE_UP in told
    assert told.count("(SIMULATED)") == 4


@pytest.mark.stack
@pytest.mark.model
@pytest.mark.slow
async def test_two_documents_are_audited_with_the_real_model(system: Systems, tmp_path: Path) -> None:
    # given two documents
    (tmp_path / "bsd.txt").write_text(BSD)
    (tmp_path / "mit.txt").write_text(MIT)

    # when a real model audits them
    finished, told = await audited(system, tmp_path, "real")

    # then both have an answer of the right shape, whatever it says, and the reader is told what to think of it
    assert finished.status == "completed"
    table = Table.model_validate(finished.output)
    assert [(row.package, row.error) for row in table.rows] == [("bsd.txt", None), ("mit.txt", None)]
    assert all(row.kind and row.name and row.obligations and row.summary for row in table.rows)
    assert finished.usage.cost.amount > 0
    assert HONEST in told
    assert "SIMULATED" not in told
