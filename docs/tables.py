"""Owns the tables of docs/operating.md: settings, metrics and log events, read out of the code that defines them."""

import ast
import importlib
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "operating.md"
SERVICES = ("orchestrator", "inference", "tool_executor", "worker", "gateway")
LARGE = 10_000
BEGIN, END = "<!-- {}: begin, by `make schemas` -->", "<!-- {}: end -->"
PROCESS = "the process: host, pid"


def main() -> int:
    """Write the tables, or with --check fail where they are not up to date."""
    text = updated(GUIDE.read_text())
    if "--check" in sys.argv[1:]:
        if text != GUIDE.read_text():
            sys.stderr.write("docs/operating.md: stale\nBring it up to date with: make schemas\n")
            return 1
        return 0
    GUIDE.write_text(text)
    return 0


def updated(guide: str) -> str:
    """The guide with its tables as the code is now."""
    for name, rows in (("settings", settings()), ("metrics", metrics()), ("log events", log_events())):
        head, begin, rest = guide.partition(BEGIN.format(name))
        _, end, tail = rest.partition(END.format(name))
        if not begin or not end:
            raise SystemExit(f"docs/operating.md: no place for the {name}")
        guide = f"{head}{begin}\n" + "\n".join(rows) + f"\n{end}{tail}"
    return guide


def settings() -> Iterator[str]:
    """One row for each variable: what all services share first, then each service's own."""
    from penstock.runtime.settings import PostgresSettings, ServiceSettings

    yield from ("| variable | default | |", "| --- | --- | --- |")
    source = ROOT / "libs/penstock/runtime/settings.py"
    yield from _fields(ServiceSettings, set(), source)
    yield "| **orchestrator, gateway** | | |"
    yield from _fields(PostgresSettings, set(), source)
    shared = {*ServiceSettings.model_fields, *PostgresSettings.model_fields}
    for service in SERVICES:
        if not (ROOT / "services" / service / "settings.py").exists():
            continue
        module = importlib.import_module(f"services.{service}.settings")
        yield f"| **{service}** | | |"
        for found in vars(module).values():
            if isinstance(found, type) and issubclass(found, BaseSettings) and found.__module__ == module.__name__:
                yield from _fields(found, shared, Path(str(module.__file__)))


def metrics() -> Iterator[str]:
    """One row for each metric, by whose it is."""
    yield from ("| metric | of | |", "| --- | --- | --- |")
    yield from (f"| `{name}` | {owner} | {_sentence(what)} |" for owner, name, what in _members("Metric"))


def log_events() -> Iterator[str]:
    """One row for each service with its log events."""
    yield from ("| of | events |", "| --- | --- |")
    for owner, found in groupby(_members("Event"), key=lambda member: member[0]):
        names = (f"`{name}`" + (f" ({what.rstrip('.')})" if what else "") for _, name, what in found)
        yield f"| {owner} | {', '.join(names)} |"


def _fields(found: type[BaseSettings], known: set[str], source: Path) -> Iterator[str]:
    notes = dict(_notes(source, found.__name__))
    for name, field in found.model_fields.items():
        if name not in known:
            what = "; ".join(filter(None, (_choices(field.annotation), field.description or notes.get(name))))
            if not what:
                raise SystemExit(f"{source.relative_to(ROOT)}: say under {name} what it is")
            yield f"| `PENSTOCK_{name.upper()}` | {_default(name, field)} | {_sentence(what)} |"


def _sentence(what: str) -> str:
    return what[:1].upper() + what[1:].rstrip(".")


def _choices(annotation: Any) -> str:
    return " · ".join(map(str, get_args(annotation))) if get_origin(annotation) is Literal else ""


def _default(name: str, field: FieldInfo) -> str:
    if name == "instance":
        return PROCESS
    if field.is_required():
        return "*required*"
    match field.get_default(call_default_factory=True, validated_data={}):
        case None | () | "":
            return ""
        case SecretStr():
            return "(secret)"
        case Path() as path:
            return f"`{path.relative_to(ROOT)}`" if path.is_relative_to(ROOT) else f"`{path}`"
        case tuple() as several:
            return f"`{','.join(map(str, several))}`"
        case int() as number if number >= LARGE:
            return f"`{number:_}`"
        case value:
            return f"`{value}`"


def _members(kind: str) -> Iterator[tuple[str, str, str]]:
    """Owner, name and meaning of each member of the enums whose names end in `kind`."""
    for source in sorted([*(ROOT / "libs/penstock/runtime").rglob("*.py"), *(ROOT / "services").rglob("*.py")]):
        if "tests" in source.parts:
            continue
        for node in ast.parse(source.read_text()).body:
            if isinstance(node, ast.ClassDef) and node.name.endswith(kind) and _is_enum(node):
                owner = source.relative_to(ROOT).parts[1] if "services" in source.parts else "all"
                notes = dict(_notes(source, node.name))
                for item in node.body:
                    if isinstance(item, ast.Assign) and isinstance(item.value, ast.Constant):
                        yield owner, str(item.value.value), notes.get(ast.unparse(item.targets[0]), "")


def _is_enum(node: ast.ClassDef) -> bool:
    return any(ast.unparse(parent) == "StrEnum" for parent in node.bases)


def _notes(source: Path, class_name: str) -> Iterator[tuple[str, str]]:
    """What is written under each attribute of a class."""
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            for item, after in zip(node.body, node.body[1:], strict=False):
                if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                    target = item.target if isinstance(item, ast.AnnAssign) else getattr(item, "targets", [None])[0]
                    if isinstance(target, ast.Name):
                        yield target.id, " ".join(str(after.value.value).split())


if __name__ == "__main__":
    sys.exit(main())
