"""Owns what a person reads at the end: the table of documents, the totals, and where to look next."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import PurePath
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from examples.licence_audit.progress import document_of
from examples.licence_audit.tasks import Row
from examples.licence_audit.tasks import Table as Audit
from penstock.contracts.messages import RunFinished

PLAIN_WIDTH: Final = 150
NAME_CHARACTERS: Final = 28
SIMULATED: Final = "SIMULATED"
HONEST: Final = (
    "The model has 135 million parameters and is often wrong: the table shows what it said, not what is true."
)
MADE_UP: Final = f"{SIMULATED}: every answer was made up by the simulated engine; names, kinds, costs mean nothing."
KINDS: Final[Mapping[str, str]] = {
    "permissive": "permissive",
    "weak_copyleft": "weak copyleft",
    "strong_copyleft": "strong copyleft",
    "other": "other",
}


@dataclass(slots=True)
class Spent:
    """What the model calls of one document took."""

    tokens: int = 0
    cost: Decimal = Decimal(0)
    began: datetime | None = None
    ended: datetime | None = None
    simulated: bool = False

    @property
    def seconds(self) -> float:
        """From the first step's start to the last step's end, waiting included."""
        return 0.0 if self.began is None or self.ended is None else (self.ended - self.began).total_seconds()


def spent_by_document(steps: Sequence[Mapping[str, Any]]) -> dict[int, Spent]:
    """A trace's steps summed up by document."""
    documents: dict[int, Spent] = {}
    for step in steps:
        document = document_of(step["step"])
        if document is None:
            continue
        spent = documents.setdefault(document, Spent())
        first, last = datetime.fromisoformat(step["first_at"]), datetime.fromisoformat(step["last_at"])
        spent.began = first if spent.began is None else min(spent.began, first)
        spent.ended = last if spent.ended is None else max(spent.ended, last)
        for attempt in step["attempts"]:
            spent.tokens += sum(attempt["tokens"].values())
            spent.cost += Decimal(attempt["cost"])
            spent.simulated = spent.simulated or attempt["simulated"]
    return documents


def documents_table(audit: Audit, spent: Mapping[int, Spent], *, simulated: bool) -> Table:
    """A line per document: what the model said beside what its package declares."""
    title = f"Licence audit, {SIMULATED}" if simulated else "Licence audit"
    table = Table(title=title, header_style="bold", title_justify="left", pad_edge=False, box=None)
    for heading in ("package", "declared", "the model: name", "the model: kind", "2nd look", "agree"):
        table.add_column(heading, overflow="fold")
    for heading in ("tokens", "seconds", "cost USD"):
        table.add_column(heading, justify="right", no_wrap=True)
    for number, row in enumerate(audit.rows):
        used = spent.get(number, Spent())
        table.add_row(
            Text(_package(row)),
            Text(row.declared) if row.declared else Text("unknown", "dim"),
            Text(row.error.partition(":")[0], "red") if row.error else Text((row.name or "")[:NAME_CHARACTERS]),
            _said(row, simulated=simulated),
            _second_look(row),
            _agreement(row),
            str(used.tokens),
            f"{used.seconds:.1f}",
            f"{used.cost:.6f}",
        )
    return table


def print_report(
    console: Console, finished: RunFinished, spent: Mapping[int, Spent], *, found: int, duplicates: int
) -> None:
    """Everything about a completed audit."""
    audit = Audit.model_validate(finished.output)
    simulated = any(each.simulated for each in spent.values())
    console.print()
    console.print(documents_table(audit, spent, simulated=simulated))
    _print_words(console, audit)
    console.print()
    for line in _totals(finished, audit, found, duplicates):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(MADE_UP if simulated else HONEST, style="yellow", highlight=False, soft_wrap=True)


def _print_words(console: Console, audit: Audit) -> None:
    console.print("\nIn the model's words", style="bold")
    for row in audit.rows:
        if row.summary is not None:
            duties = "; ".join(row.obligations)
            console.print(Text.assemble((f"  {row.package}: ", "bold"), row.summary), soft_wrap=True)
            console.print(Text(f"      obligations: {duties}", "dim"), soft_wrap=True)
        if row.error is not None:
            console.print(
                Text.assemble((f"  {row.package}: ", "bold"), (f"failed: {row.error}", "red")), soft_wrap=True
            )
        if row.note:
            console.print(Text(f"      note: {row.note}", "yellow"), soft_wrap=True)


def _totals(finished: RunFinished, audit: Audit, found: int, duplicates: int) -> list[str]:
    usage = finished.usage
    tokens = usage.input_tokens + usage.output_tokens
    seconds = (finished.finished_at - finished.started_at).total_seconds()
    documents = len(audit.rows)
    return [
        f"{audit.audited} of {found} distinct documents were audited ({duplicates} more files repeat one of them)"
        + (f"; {audit.failed} could not be: see above." if audit.failed else "."),
        _share(audit),
        f"{usage.model_calls} model calls, {usage.input_tokens} prompt and {usage.output_tokens} answer tokens "
        f"({tokens / max(seconds, 0.001):.0f} tokens/s) in {seconds:.1f} s for {_money(usage.cost.amount)} USD.",
        f"Per document: {tokens / documents:.0f} tokens, {seconds / documents:.1f} s, "
        f"{_money(usage.cost.amount / documents)} USD.",
    ]


def _share(audit: Audit) -> str:
    if audit.share is None:
        return "Nothing comparable is declared, so there is no share of agreement."
    return (
        f"The model agrees with the package's own metadata on {audit.agreed} of {audit.counted} documents "
        f"({audit.share:.0%}); what declares nothing comparable is not counted."
    )


def _money(amount: Decimal) -> str:
    return f"{amount:.6f}"


def _package(row: Row) -> str:
    name = PurePath(row.path).name
    plain = name.upper().split(".")[0] in ("LICENSE", "LICENCE", "COPYING")
    return f"{row.package} {row.version}".strip() + ("" if plain or row.package.endswith(name) else f" ({name})")


def _said(row: Row, *, simulated: bool) -> Text:
    if row.kind is None:
        return Text("-", "dim")
    said = KINDS[row.kind] + (f" ({SIMULATED})" if simulated else "")
    return Text(said)


def _second_look(row: Row) -> Text:
    if not row.second_look or row.first_kind is None:
        return Text("")
    changed = row.first_kind != row.kind
    return Text(f"yes, was {KINDS[row.first_kind]}" if changed else "yes", "yellow" if changed else "")


def _agreement(row: Row) -> Text:
    match row.agrees:
        case None:
            return Text("not counted" if row.error is None else "failed", "dim")
        case True:
            return Text("yes", "green")
        case False:
            return Text("no", "red")
