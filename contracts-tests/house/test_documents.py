"""Owns the promise that the documents are true: code that reads, messages that pass, links that lead somewhere."""

import json
import re
from pathlib import Path

import jsonschema_rs
import pytest

from penstock.contracts.schema import producer_schema
from penstock.contracts.topics import RUN_REQUESTED
from penstock.workflow import checks, notation

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
README = (ROOT / "README.md").read_text()
LANGUAGE = (ROOT / "docs" / "workflows.md").read_text()
LOOPS = (ROOT / "docs" / "loops.md").read_text()
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    links = LINK.findall(document.read_text())

    assert [link for link in links if not (document.parent / link).exists()] == []


def test_the_workflow_in_the_readme_can_be_published() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)

    assert checks.check(notation.load(text)) == []
    assert text == (ROOT / "examples" / "plain_clients" / "greet.yaml").read_text()


@pytest.mark.parametrize(
    "text", re.findall(r"```yaml\n(.*?)```", LANGUAGE, re.DOTALL), ids=lambda text: text.split("\n")[0]
)
def test_the_workflows_in_the_guide_to_the_language_can_be_published(text: str) -> None:
    assert notation.read(text).faults == ()


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(id: .*?)```", LOOPS, re.DOTALL), ids=lambda text: text[4:9])
def test_the_blocks_in_the_guide_to_loops_can_be_published(block: str) -> None:
    routes = "[{pool: small, model: m}]"
    do = "".join(f"  {line}\n" for line in block.splitlines())

    assert notation.read(f"name: guide\ntiers: {{fast: {routes}, strong: {routes}}}\ndo:\n{do}").faults == ()


def test_every_code_that_a_run_fails_with_is_explained() -> None:
    said = {
        code
        for source in (ROOT / "services" / "orchestrator" / "core").rglob("*.py")
        if "tests" not in source.parts
        for code in re.findall(r'\bcode="([a-z_]+)"', source.read_text())
    }

    assert said - set(re.findall(r"`([a-z_]+)`", LANGUAGE)) == set()


def test_the_requests_in_the_readme_pass_the_producers_schema() -> None:
    requests = re.findall(r"\{\"workflow\": \"greet\".*\}(?=[\n'])", README)

    assert requests
    for request in requests:
        jsonschema_rs.validate(producer_schema(RUN_REQUESTED), json.loads(request))


def test_every_decision_is_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = set(re.findall(r"\((\d{4}-[a-z0-9-]+\.md)\)", (folder / "README.md").read_text()))

    assert listed == {path.name for path in folder.glob("[0-9]*.md")}
