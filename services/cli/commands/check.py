"""Owns `penstock check`: a definition's faults, its graph, what a run of it can come to, and warnings."""

from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.tree import Tree

from penstock.workflow.advice import advice
from penstock.workflow.checks.checker import Tasks
from penstock.workflow.definition import Definition
from penstock.workflow.faults import Fault
from penstock.workflow.graph import Drawn, drawn, mermaid
from penstock.workflow.notation import NotationError, read, values
from penstock.workflow.publish import version_of
from penstock.workflow.worst import Worst
from penstock.workflow.worst_case import WorstCase, worst_case
from services.cli import output
from services.cli.failures import EXIT_FAILED, CommandError
from services.cli.settings import AsJson
from services.cli.signatures import TaskModules, known_tasks

With = Annotated[
    list[Path] | None,
    typer.Option("--with", help="A definition whose runs this one asks for: they count into the worst case."),
]
File = Annotated[Path, typer.Argument(help="A definition in YAML or JSON.")]
UNITS_SECONDS = (("d", 86_400), ("h", 3_600), ("m", 60))


def check(
    file: File,
    *,
    as_mermaid: Annotated[bool, typer.Option("--mermaid", help="Only the graph, as a Mermaid flowchart.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Fail for warnings, too.")] = False,
    tasks: TaskModules = None,
    with_files: With = None,
    as_json: AsJson = False,
) -> None:
    """Check a definition: faults with their lines, the graph, what one run can come to at worst, and warnings.

    Exit code 1 where there are faults, with --strict also for warnings.
    """
    text = text_of(file)
    if as_json:
        _as_json(file, text, known_tasks(tasks), _children(with_files), strict=strict)
        return
    definition = sound(file, text, known_tasks(tasks))
    if as_mermaid:
        typer.echo(mermaid(definition), nl=False)
        return
    worst = worst_case(definition, _children(with_files))
    warnings = _warnings(definition, worst, text)
    output.console.print(f"{definition.name}@{version_of(definition)} is sound.", highlight=False)
    output.console.print(_tree(drawn(definition)), highlight=False)
    for line in _said(worst):
        output.console.print(output.shown(line), highlight=False)
    for warning in warnings:
        hint = f" ({warning.hint})" if warning.hint else ""
        where = f"{file}:{warning.line or 1}: {warning.path}"
        output.console.print(f"[yellow]warning[/] {output.shown(f'{where}: {warning.message}{hint}')}", highlight=False)
    if strict and warnings:
        raise typer.Exit(EXIT_FAILED)


def text_of(file: Path) -> str:
    """A file's text. Raises CommandError."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"cannot read {file}: {error}") from None


def sound(file: Path, text: str, tasks: Tasks | None = None) -> Definition:
    """The definition that a text is. Raises CommandError with all its faults."""
    document = read(text, file.parent, tasks)
    if document.definition is None or document.faults:
        details = tuple(fault.located(file) for fault in document.faults)
        count = len(details)
        message = f"{file} has {count} fault" + ("s" if count > 1 else "")
        raise CommandError(message, code=EXIT_FAILED, details=details)
    return document.definition


def _children(files: list[Path] | None) -> dict[str, Definition]:
    definitions = [sound(file, text_of(file)) for file in files or ()]
    return {definition.name: definition for definition in definitions}


def _as_json(file: Path, text: str, tasks: Tasks | None, children: dict[str, Definition], *, strict: bool) -> None:
    document = read(text, file.parent, tasks)
    body: dict[str, Any] = {"file": str(file), "faults": [asdict(fault) for fault in document.faults]}
    failed = bool(document.faults)
    if document.definition is not None and not document.faults:
        worst = worst_case(document.definition, children)
        warnings = _warnings(document.definition, worst, text)
        body |= {
            "name": document.definition.name,
            "version": version_of(document.definition),
            "warnings": [asdict(warning) for warning in warnings],
            "worst_case": {
                "bound": _plain(worst.bound),
                "needed": _plain(worst.needed),
                "caps": list(worst.caps),
                "deadline_seconds": worst.deadline_seconds,
            },
            "graph": drawn(document.definition).plain(),
        }
        failed = strict and bool(warnings)
    output.as_json(body)
    if failed:
        raise typer.Exit(EXIT_FAILED)


def _warnings(definition: Definition, worst: WorstCase, text: str) -> list[Fault]:
    try:
        _, lines = values(text)
    except NotationError:
        lines = {}
    return advice(definition, worst, lines)


def _tree(part: Drawn) -> Tree:
    tree = Tree(_node(part), guide_style="dim")
    _grow(tree, part)
    return tree


def _grow(tree: Tree, part: Drawn) -> None:
    for label, inner in part.inside:
        way = f"[cyan]{output.shown(label)}[/] → " if label else ""
        _grow(tree.add(way + _node(inner)), inner)


def _node(part: Drawn) -> str:
    detail = f" {output.shown(part.detail)}" if part.detail else ""
    return f"[bold]{output.shown(part.id)}[/] [dim]{part.kind}[/]{detail}"


def _said(worst: WorstCase) -> list[str]:
    """The worst case in words."""
    bound = worst.bound
    capped = f"  (within {', '.join(worst.caps)})" if worst.caps else ""
    undos = f", {bound.undos:,} more to undo" if bound.undos else ""
    calls = f"{bound.requests:,} requests, {bound.model_calls:,} of them model calls{undos}{capped}"
    tokens = f"{bound.input_tokens:,} input and {bound.output_tokens:,} output tokens"
    lines = [f"One run at worst: {calls}", f"  {tokens}", f"  cost: {_cost(bound)}"]
    needed = _time(worst.needed.needed_seconds)
    lines.append(f"  time: {_time(worst.deadline_seconds)}, the deadline; {needed} if every attempt takes its timeout")
    if bound.unbounded:
        names = ", ".join(sorted(bound.unbounded))
        lines.append(
            f"  nothing but the engine's limit bounds the prompt of {names}: give schemas a maxLength, maxItems"
        )
    if bound.uncounted:
        lines.append(f"  not counted: what {', '.join(sorted(bound.uncounted))} start (--with FILE counts it)")
    return lines


def _cost(bound: Worst) -> str:
    if not bound.model_calls:
        return "nothing, no model is asked"
    amounts = [f"{amount.quantize(Decimal('0.0001')):f} {currency}" for currency, amount in sorted(bound.cost.items())]
    if not bound.unpriced:
        return " + ".join(amounts)
    missing = f"no price for {', '.join(sorted(bound.unpriced))}"
    return f"{' + '.join(amounts)} and more: {missing}" if amounts else f"unknown: {missing}"


def _time(seconds: float) -> str:
    parts, left = [], seconds
    for unit, size in UNITS_SECONDS:
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count:.0f}{unit}")
    if left or not parts:
        parts.append(f"{left:.3g}s")
    return " ".join(parts)


def _plain(worst: Worst) -> dict[str, Any]:
    return {
        "requests": worst.requests,
        "undos": worst.undos,
        "model_calls": worst.model_calls,
        "input_tokens": worst.input_tokens,
        "output_tokens": worst.output_tokens,
        "cost": {currency: format(amount, "f") for currency, amount in sorted(worst.cost.items())},
        "seconds": worst.needed_seconds,
        "unpriced": sorted(worst.unpriced),
        "unbounded": sorted(worst.unbounded),
        "uncounted": sorted(worst.uncounted),
    }
