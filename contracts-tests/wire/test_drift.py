"""Owns the promise that generated files are as the registry says, and that a stray file is refused."""

import json
import shutil
from pathlib import Path

import pytest

from penstock.contracts import generate
from penstock.contracts.messages import Message
from penstock.contracts.topics import RUN_FINISHED, RUN_REQUESTED, TOPICS, Topic

EXAMPLE = generate.folder(RUN_REQUESTED) / "examples" / "1.0-bare.json"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy of everything that is generated or read while generating."""
    shutil.copytree(generate.ROOT / "schemas", tmp_path / "schemas")
    for name in ("README.md", "pyproject.toml"):
        shutil.copy(generate.ROOT / name, tmp_path / name)
    return tmp_path


def check(repository: Path, *options: str) -> int:
    return generate.main(["--root", str(repository), "--check", *options])


def test_the_repository_is_up_to_date() -> None:
    assert generate.drift(generate.ROOT) == []


@pytest.mark.parametrize(
    "path",
    ["README.md", "schemas/asyncapi.yaml", str(generate.folder(RUN_FINISHED) / "consumer.schema.json")],
)
def test_a_stale_file_is_named_with_the_command_that_mends_it(
    repository: Path, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (repository / path).read_text()
    (repository / path).write_text(text.replace("run.finished", "run.ended").replace("RunFinished", "RunEnded"))

    assert check(repository) == 1

    said = capsys.readouterr().err
    assert f"{path}: stale" in said
    assert "make schemas" in said


def test_a_missing_file_is_named(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newest, _ = generate.history(repository, RUN_REQUESTED)[-1]
    path = generate.folder(RUN_REQUESTED) / "history" / f"{newest}.json"
    (repository / path).unlink()

    assert check(repository) == 1

    assert f"{path}: missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    "path",
    [
        "schemas/penstock.run.vanished/v1/producer.schema.json",
        "schemas/penstock.run.requested/v2/consumer.schema.json",
        str(EXAMPLE.with_name("no-such-example.headers.json")),
        str(EXAMPLE.with_name("no-such-example.key")),
        "schemas/penstock.run.vanished/v1/examples/1.0.json",
    ],
)
def test_orphans_are_refused(repository: Path, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    (repository / path).parent.mkdir(parents=True, exist_ok=True)
    (repository / path).write_text("{}")

    assert check(repository) == 1

    assert f"{path}: nothing in the registry accounts for it" in capsys.readouterr().err


def test_writing_mends_what_drifted_and_keeps_golden_messages(repository: Path) -> None:
    (repository / "schemas" / "asyncapi.yaml").write_text("")
    before = (repository / EXAMPLE).read_bytes()

    assert generate.main(["--root", str(repository)]) == 0

    assert check(repository) == 0
    assert (repository / EXAMPLE).read_bytes() == before


def test_what_breaks_a_released_version_is_refused_with_the_deploy_order(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = repository / generate.folder(RUN_FINISHED) / "history" / "1.0.json"
    released = json.loads(path.read_text())
    released["schema"]["properties"]["energy"] = {"type": "string"}
    released["schema"]["properties"]["status"]["enum"].remove("cancelled")
    path.write_text(json.dumps(released))

    assert check(repository) == 1
    assert generate.main(["--root", str(repository)]) == 1

    said = capsys.readouterr().err
    assert "penstock.run.finished.v1: not compatible with version 1.0" in said
    assert "energy: removed" in said
    assert "status: value 'cancelled' added" in said
    assert "deploy order" in said


def test_an_addition_becomes_a_minor_version(repository: Path) -> None:
    place = repository / generate.folder(RUN_FINISHED) / "history"
    released = json.loads((place / "1.0.json").read_text())
    del released["schema"]["properties"]["labels"]
    (place / "1.0.json").write_text(json.dumps(released))

    assert generate.main(["--root", str(repository)]) == 0

    assert sorted(path.name for path in place.iterdir()) == ["1.0.json", "1.1.json"]
    assert check(repository) == 0


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.event_type)
def test_todays_model_breaks_no_released_version(topic: Topic[Message]) -> None:
    reports = list(generate.incompatible(generate.ROOT, topic))

    assert not reports, "\n".join(reports)
