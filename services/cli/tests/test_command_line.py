"""The command line where nothing runs: help, input, faults, exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from services.cli.__main__ import COMMANDS, app_for, main
from services.cli.failures import CommandError
from services.cli.output import shown
from services.cli.settings import gateway_url
from services.cli.watching import Progress

SOUND = """
name: greet
tiers: {small: [{pool: small, model: tiny}]}
do: {id: greeting, model: small, prompt: "Greet {{ input.name }}."}
"""


def failure(*arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code and what stands on stderr."""
    monkeypatch.setattr(sys, "argv", ["penstock", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    code = ended.value.code
    assert isinstance(code, int)
    return code, capsys.readouterr().err


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No stack above this folder, none in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("PENSTOCK_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("command", [*COMMANDS])
def test_each_command_has_help_with_an_example(command: str) -> None:
    # Given a command, when its help is asked for
    result = CliRunner().invoke(app_for([command]), [command, "--help"])

    # Then there is one
    assert result.exit_code == 0
    assert "Usage" in result.output
    assert "Example: penstock" in result.output or "Commands" in result.output


def test_help_imports_no_command() -> None:
    # Given a fresh interpreter, when the command line is built for --help
    code = (
        "import sys; from services.cli.__main__ import app_for; app_for(['--help']);"
        "print([name for name in ('httpx', 'aiokafka', 'pydantic', 'rich', 'asyncio') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    # Then nothing heavy was
    assert said.strip() == "[]"


def test_a_sound_definition_is_named_with_its_version(tmp_path: Path) -> None:
    # Given a definition, when it is checked
    file = tmp_path / "greet.yaml"
    file.write_text(SOUND)
    result = CliRunner().invoke(app_for(["check"]), ["check", str(file)])

    # Then it is sound
    assert result.exit_code == 0
    assert result.output.startswith("greet@")


def test_child_runs_are_counted_with_their_definition(tmp_path: Path) -> None:
    # Given a workflow that asks for a run of another
    child, parent = tmp_path / "greet.yaml", tmp_path / "parent.yaml"
    child.write_text(SOUND)
    parent.write_text("name: parent\ndo: {id: ask, run: greet, input: {}}\n")

    # When it is checked without the other and with it
    alone, counted = (
        CliRunner().invoke(app_for(["check"]), ["check", str(parent), *options]).output
        for options in ([], ["--with", str(child)])
    )

    # Then its model calls are missing, and said to be, or counted
    assert "0 of them model calls" in alone
    assert "not counted: what ask start (--with FILE counts it)" in alone
    assert "3 of them model calls" in counted
    assert "not counted" not in counted


def test_a_sound_definition_is_drawn_with_its_worst_case_and_warnings(tmp_path: Path) -> None:
    # Given a definition whose tier has one route, without a price
    file = tmp_path / "greet.yaml"
    file.write_text(SOUND)

    # When it is checked for a person, for a machine, for a document, and strictly
    person, machine, document, strict = (
        CliRunner().invoke(app_for(["check"]), ["check", str(file), *options])
        for options in ([], ["--json"], ["--mermaid"], ["--strict"])
    )

    # Then there is a graph, the worst case, and a warning at its line
    assert "greeting model small: small/tiny, 256 tokens at most" in person.output
    assert "One run at worst: 3 requests, 3 of them model calls" in person.output
    assert "cost: unknown: no price for small/tiny" in person.output
    assert f"warning {file}:3: $.tiers.small: the tier `small` has one route" in person.output
    body = json.loads(machine.output)
    assert body["worst_case"]["bound"]["model_calls"] == 3
    assert body["graph"]["id"] == "greeting"
    assert len(body["warnings"]) == 1
    assert document.output.startswith("flowchart TD\n")

    # And only who asks for it is failed by warnings
    assert [result.exit_code for result in (person, machine, document, strict)] == [0, 0, 0, 1]


def test_faults_are_named_by_line_and_path_and_end_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a definition with a misspelled tier
    file = tmp_path / "greet.yaml"
    file.write_text(SOUND.replace("model: small,", "model: smal,"))

    # When it is checked
    code, said = failure("check", str(file), monkeypatch=monkeypatch, capsys=capsys)

    # Then the fault stands where an editor finds it
    assert code == 1
    assert f"{file}:4: $.do.model: there is no tier `smal` (did you mean `small`?)" in said


def test_a_fault_in_an_included_file_is_named_by_that_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a definition in a folder whose prompt is in a file beside it, with a misspelled name in its second line
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows/greet.yaml").write_text(SOUND.replace('"Greet {{ input.name }}."', "{file: greet.md}"))
    (tmp_path / "flows/greet.md").write_text("Greet\n{{ inptu.name }}.")

    # When it is checked
    code, said = failure("check", "flows/greet.yaml", monkeypatch=monkeypatch, capsys=capsys)

    # Then the fault is where an editor finds it
    assert code == 1
    assert "flows/greet.md:2: $.do.prompt: nothing is called `inptu` here (did you mean `input`?)" in said


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["nosuch"], 2, "nosuch"),
        (["check", "missing.yaml"], 2, "cannot read missing.yaml"),
        (["run", "greet", "--input", "{"], 2, "the input is not JSON"),
        (["run", "greet", "--input", "@missing.json"], 2, "cannot read the input"),
        (["run", "greet", "--label", "team"], 2, "expected KEY=VALUE"),
        (["schemas", "run.reqested"], 2, "did you mean `run.requested`?"),
        (["test", "nosuch"], 2, "there is no nosuch"),
        (["test", "."], 2, "there are no cases in ."),
        (["alias", "set", "greet", "7"], 2, "expected NAME@ALIAS"),
        (["alias", "set", "greet@stable", "7", "--canary", "8"], 2, "expected VERSION=SHARE%"),
        (["alias", "set", "greet@stable", "7", "--canary", "8=200%"], 2, "expected VERSION=SHARE%"),
        (["alias", "list"], 3, "penstock local up"),
        (["lag"], 3, "penstock local up"),
        (["runs", "list"], 3, "penstock local up"),
        (["dlq", "list"], 3, "PENSTOCK_KAFKA_BOOTSTRAP_SERVERS"),
        (["runs", "list", "--data", "elsewhere"], 3, "penstock local up"),
    ],
)
def test_what_goes_wrong_has_its_code_and_a_hint_on_stderr(
    arguments: list[str], code: int, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given nothing that runs, when a command cannot do its work
    ended, said = failure(*arguments, monkeypatch=monkeypatch, capsys=capsys)

    # Then it says so
    assert ended == code
    assert text in said


def test_an_address_where_nobody_listens_is_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a gateway that is not there
    monkeypatch.setenv("PENSTOCK_GATEWAY_URL", "http://127.0.0.1:1")

    # When a run is asked for
    code, said = failure("run", "greet", monkeypatch=monkeypatch, capsys=capsys)

    # Then the command says where it looked
    assert code == 3
    assert "http://127.0.0.1:1" in said


def test_the_stack_above_is_found_and_the_environment_goes_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a stack in a folder above
    (tmp_path / ".penstock").mkdir()
    status = {"state": "running", "gateway_url": "http://127.0.0.1:5"}
    (tmp_path / ".penstock" / "status.json").write_text(json.dumps(status))
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")

    # When the address is looked for, then it is that stack's; a named one goes before it, a stopped one is none
    assert gateway_url(None) == "http://127.0.0.1:5"
    monkeypatch.setenv("PENSTOCK_GATEWAY_URL", "http://127.0.0.1:6")
    assert gateway_url(None) == "http://127.0.0.1:6"
    assert gateway_url(tmp_path / ".penstock") == "http://127.0.0.1:5"
    (tmp_path / ".penstock" / "status.json").write_text(json.dumps(status | {"state": "stopped"}))
    with pytest.raises(CommandError):
        gateway_url(tmp_path / ".penstock")


def test_topics_and_schemas_need_nobody() -> None:
    # Given the registry, when it is asked for as JSON
    topics = json.loads(CliRunner().invoke(app_for(["topics"]), ["topics", "--json"]).output)
    schema = json.loads(CliRunner().invoke(app_for(["schemas"]), ["schemas", "run.requested"]).output)

    # Then it is all there
    assert "penstock.run.requested.v1" in {topic["name"] for topic in topics}
    assert schema["required"] == ["workflow"]


def test_a_run_that_has_nearly_used_up_a_cap_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a run that a gateway knows
    near = [
        {"cap": "tokens", "used": "812", "limit": "1000"},
        {"cap": "cost", "block": "main/fix", "used": "0.09", "limit": "0.1", "currency": "USD"},
    ]
    known = {"run_id": "r", "workflow": "w", "status": "running", "simulated": False, "steps": [], "caps_neared": near}

    class KnowsOne:
        """A gateway's door."""

        def __init__(self, data: Path | None) -> None:
            assert data is None

        def get(self, path: str, **query: Any) -> Any:
            assert (path, query) == ("/v1/runs/r", {"tenant": "default"})
            return known

    monkeypatch.setattr("services.cli.commands.runs.Door", KnowsOne)

    # When it is shown
    result = CliRunner().invoke(app_for(["runs"]), ["runs", "show", "r"])

    # Then each cap has a line
    assert result.exit_code == 0, result.output
    assert "budget: 812 of 1000 tokens are used" in result.output
    assert "caps of main/fix: 0.09 of 0.1 USD cost are used" in result.output


def test_a_workflow_is_tested_where_nothing_runs(tmp_path: Path) -> None:
    # Given a workflow and two cases, one of which expects too much
    (tmp_path / "greet.yaml").write_text(SOUND)
    (tmp_path / "greet.test.yaml").write_text(
        "answers: {greeting: {output: Hello, after: 3d}}\n"
        "cases:\n"
        "- {name: greeted, input: {name: Ada}, expect: {status: failed, error: {code: timeout}}}\n"
        "- {name: not so, input: {name: Ada}, expect: {output: Hello}}\n"
    )

    # When they are run, for a person and for a machine
    person = CliRunner().invoke(app_for(["test"]), ["test", str(tmp_path), "--record", str(tmp_path / "histories")])
    machine = CliRunner().invoke(app_for(["test"]), ["test", str(tmp_path), "--json", "-k", "greeted"])

    # Then the one is told with what happened, and both are recorded
    assert person.exit_code == 1
    assert "- expected  completed" in person.output
    assert "greeting#3 failed on small/tiny: timeout" in person.output
    assert "1 passed, 1 failed" in person.output
    assert sorted(path.name for path in (tmp_path / "histories").iterdir()) == [
        "greet-greeted.yaml",
        "greet-not_so.yaml",
    ]
    assert machine.exit_code == 0
    (case,) = json.loads(machine.output)["cases"]
    assert (case["name"], case["passed"], case["run"]["status"]) == ("greeted", True, "failed")


def test_a_test_file_that_cannot_be_read_fails_beside_those_that_can(tmp_path: Path) -> None:
    # Given one file with a fault and one without
    (tmp_path / "greet.yaml").write_text(SOUND)
    (tmp_path / "greet.test.yaml").write_text("cases: [{name: a, answers: {greeting: {output: Hi}}, input: {name: x}}]")
    (tmp_path / "other.test.yaml").write_text("cases: [{nam: a}]")

    # When all are run
    result = CliRunner().invoke(app_for(["test"]), ["test", str(tmp_path)])

    # Then the fault is named by its line, and the other case ran
    assert result.exit_code == 1
    assert "other.test.yaml:1: $.cases[0].nam: there is no field `nam` here" in result.output
    assert "1 passed, 1 failed" in result.output


def test_progress_adds_up_to_steps_done() -> None:
    # Given two events of a run
    progress = Progress()
    events: list[dict[str, Any]] = [
        {"status": "running", "changes": [{"step": "a", "phase": "waiting"}, {"step": "b", "phase": "waiting"}]},
        {
            "status": "running",
            "changes": [{"step": "a", "phase": "completed"}],
            "usage": {"input_tokens": 3, "output_tokens": 4, "cost": {"amount": "0.1", "currency": "USD"}},
        },
    ]

    # When they are added
    for event in events:
        progress.add(event)

    # Then one line tells it
    assert progress.line("order") == "order running  1/2 steps  7 tokens  0.1 USD  a completed"


def test_text_from_outside_cannot_steer_the_terminal() -> None:
    # Given an error message with an escape sequence and markup, when it is shown
    text = shown("\x1b[2J[red]boo[/red]\nnext")

    # Then neither acts
    assert "\x1b" not in text
    assert "\n" not in text
    assert "\\[red]" in text
