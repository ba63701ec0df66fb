"""Owns the page of house style that linters do not know."""

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("libs", "services", "examples", "bench", "contracts-tests", "docs")
LINES_MAX, FUNCTION_LINES_MAX = 400, 60
BANNED_NAMES = re.compile(r"(common|utils?|helpers?|base|managers?|misc)", re.IGNORECASE)
SUPPRESSION = re.compile(r"#\s*(?:noqa|type:\s*ignore|fmt:|pragma|ruff:|mypy:)")
REASONED = re.compile(r"#\s*(?:noqa:[ A-Z0-9,]+|type:\s*ignore\[[a-z, -]+\]|fmt: skip)\s+[#-]\s*\S+")
SQL = re.compile(r"\s*(select\s.+\sfrom|insert\s+into|update\s+\S+\s+set|delete\s+from|create\s+table)\s", re.I | re.S)
PLACES = re.compile(
    r"pypi\.org|pythonhosted|npmjs\.|maven\.org|repo\.maven|docker\.io|ghcr\.io|index-url\s*=|(?<![\w.])/(root|home|opt|work)/"
)
GENERATED = ("schemas/", "requirements/all.lock")

Module = tuple[Path, str, ast.Module]


def python_files() -> list[Path]:
    found = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return sorted(path.relative_to(ROOT) for path in found if "__pycache__" not in path.parts)


@cache
def modules() -> list[Module]:
    texts = ((path, (ROOT / path).read_text()) for path in python_files())
    return [(path, text, ast.parse(text)) for path, text in texts]


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def is_test(path: Path) -> bool:
    return path.parts[0] == "contracts-tests" or "tests" in path.parts or path.name == "conftest.py"


def sizes(path: Path, text: str, tree: ast.Module) -> Iterator[str]:
    if text.count("\n") > LINES_MAX:
        yield f"{path}: {text.count(chr(10))} lines, at most {LINES_MAX}"
    for function in functions(tree):
        lines = (function.end_lineno or 0) - function.lineno + 1
        if lines > FUNCTION_LINES_MAX:
            yield f"{path}:{function.lineno}: {function.name} has {lines} lines, at most {FUNCTION_LINES_MAX}"


def names(path: Path, text: str, tree: ast.Module) -> Iterator[str]:
    for part in (*path.parts[:-1], path.stem):
        if BANNED_NAMES.fullmatch(part):
            yield f"{path}: {part} says nothing about what is in it"


def docstrings(path: Path, text: str, tree: ast.Module) -> Iterator[str]:
    first, _, rest = (ast.get_docstring(tree) or "").partition("\n")
    if text and (not first.endswith(".") or (rest and not rest.startswith("\n"))):
        yield f"{path}: a module's docstring begins with one line that says what it owns"


def environment(path: Path, text: str, tree: ast.Module) -> Iterator[str]:
    if path.name in ("__main__.py", "settings.py") or path == Path("libs/penstock/runtime/service.py") or is_test(path):
        return  # runtime/service.py is every service's __main__, written once
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv", "putenv"):
            yield f"{path}:{node.lineno}: the environment is read in __main__ and settings only"


def suppressions(path: Path, text: str, tree: ast.Module) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), start=1):
        if SUPPRESSION.search(line) and not REASONED.search(line) and path != Path(__file__).relative_to(ROOT):
            yield f"{path}:{number}: a suppressed rule carries its reason on the same line"


def statements(path: Path, text: str, tree: ast.Module) -> Iterator[str]:
    if is_test(path) or path.parts[:2] == ("services", "local"):
        return  # the local stack has no tables; it asks a server that it starts which databases there are
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and SQL.match(node.value):
            yield f"{path}:{node.lineno}: SQL lives in .sql files"


def outages(path: Path, text: str, tree: ast.Module) -> Iterator[str]:
    if path == Path("libs/penstock/runtime/postgres.py"):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("InterfaceError", "InternalClientError"):
            yield f"{path}:{node.lineno}: what Postgres raises while it is away is listed once, as AWAY"


@pytest.mark.parametrize("rule", [sizes, names, docstrings, environment, suppressions, statements, outages])
def test_python_keeps_the_house_rules(rule: Callable[[Path, str, ast.Module], Iterator[str]]) -> None:
    assert [fault for module in modules() for fault in rule(*module)] == []


def test_no_file_names_a_registry_or_a_place_on_this_machine() -> None:
    tops = (path for path in ROOT.iterdir() if path.is_file() and path.name != ".git")
    below = (
        path for name in (*FOLDERS, "infra", "requirements", ".ci", "schemas") for path in (ROOT / name).rglob("*")
    )
    texts = (
        path
        for path in (*tops, *below)
        if path.is_file() and "__pycache__" not in path.parts and path != Path(__file__)
    )

    assert [
        f"{path.relative_to(ROOT)}: {found.group()}"
        for path in texts
        if (found := PLACES.search(path.read_text(errors="ignore")))
    ] == []
