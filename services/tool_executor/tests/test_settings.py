"""Tests of the list of MCP servers."""

import sys
from pathlib import Path

import pytest

from penstock.runtime.errors import SettingsError
from penstock.runtime.settings import load
from services.tool_executor.settings import ToolExecutorSettings


def listed(path: Path, text: str) -> dict[str, str]:
    path.write_text(text)
    return {"PENSTOCK_TOOL_EXECUTOR_SERVERS": str(path)}


def test_without_a_list_there_are_no_tools() -> None:
    assert load(ToolExecutorSettings, {}).servers() == {}


def test_folders_are_the_files_own_and_the_interpreter_is_ours(tmp_path: Path) -> None:
    environ = listed(tmp_path / "servers.yaml", "servers: {a: {command: '{python}', args: [s.py], cwd: sub}}")

    spec = load(ToolExecutorSettings, environ).servers()["a"]

    assert (spec.command, spec.args, spec.cwd) == (sys.executable, ["s.py"], tmp_path / "sub")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("servers: {a: {comand: x}}", "comand"),
        ("servers: {'a.b': {command: x}}", "a.b"),
        ("servers: [", "no list of servers"),
    ],
)
def test_a_list_that_cannot_work_is_refused_at_the_start(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(SettingsError, match=fault):
        load(ToolExecutorSettings, listed(tmp_path / "servers.yaml", text))


def test_a_list_that_is_not_there_is_named() -> None:
    with pytest.raises(SettingsError, match="/nonexistent"):
        load(ToolExecutorSettings, {"PENSTOCK_TOOL_EXECUTOR_SERVERS": "/nonexistent"})
