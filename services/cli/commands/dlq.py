"""Owns `penstock dlq`: see dead letters, and send them back once their cause is gone."""

import asyncio
import base64
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

import typer

from services.cli import letters, output
from services.cli.failures import CommandError, unreachable
from services.cli.letters import Box, Letter
from services.cli.settings import AsJson, Data, bootstrap_servers

app = typer.Typer(no_args_is_help=True, help="Dead letters: list, show, redrive.")

SHOWN_BYTES = 200

Topic = Annotated[str, typer.Argument(help="A topic, with or without dlq. in front.")]
Partition = Annotated[int, typer.Option(min=0, help="The partition of the dead letter topic.")]

T = TypeVar("T")


@app.command("list", epilog="Example: penstock dlq list")
def list_boxes(*, data: Data = None, as_json: AsJson = False) -> None:
    """List the topics that have dead letters."""
    found = _asked(data, letters.boxes(bootstrap_servers(data)))
    if as_json:
        rows = [
            {"topic": box.topic, "partition": box.partition, "letters": box.letters, "waiting": box.waiting}
            for box in found
        ]
        output.as_json(rows)
        return
    output.table(
        ("topic", "partition", "letters", "waiting"),
        [(box.topic, box.partition, box.letters, box.waiting) for box in found],
        numbers=("partition", "letters", "waiting"),
        empty="No dead letters.",
    )


@app.command(epilog="Example: penstock dlq show penstock.run.requested.v1 --limit 3")
def show(
    topic: Topic,
    *,
    partition: Partition = 0,
    offset: Annotated[int, typer.Option(min=0, help="From this one on.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = 20,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Show dead letters: where each came from, why it is here, and its bytes."""
    servers = bootstrap_servers(data)
    box = _box(data, servers, topic, partition)
    found = _asked(data, letters.letters(servers, box, offset, limit))
    if as_json:
        output.as_json([_described(letter) for letter in found])
        return
    for letter in found:
        errors = letter.errors
        head = f"{letter.offset}  from {letter.origin}/{errors.get('partition')}/{errors.get('offset')}"
        redriven = "  (redriven)" if letter.offset < box.mark else ""
        output.console.print(output.shown(head + redriven), style="bold", highlight=False)
        output.console.print(f"  {output.shown(errors.get('message', ''))}", style="red", highlight=False)
        output.console.print(f"  key   {output.shown(_preview(letter.key))}", highlight=False)
        output.console.print(f"  value {output.shown(_preview(letter.value))}", highlight=False)


@app.command(epilog="Example: penstock dlq redrive penstock.run.requested.v1 --dry-run")
def redrive(
    topic: Topic,
    *,
    partition: Partition = 0,
    offset: Annotated[int | None, typer.Option(min=0, help="This one alone; the mark stays where it is.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many.")] = 1_000,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent.")] = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Send dead letters back to the topic and partition they came from, byte for byte, and mark them as redriven."""
    servers = bootstrap_servers(data)
    box = _box(data, servers, topic, partition)
    start, count = (box.mark, limit) if offset is None else (offset, 1)
    found = _asked(data, letters.letters(servers, box, start, count))
    if offset is not None:
        found = [letter for letter in found if letter.offset == offset]
        if not found:
            raise CommandError(f"{box.topic}/{box.partition} has no letter {offset}", hint="see penstock dlq show")
    if found and not dry_run:
        _asked(data, letters.send_back(servers, found))
        if offset is None:
            _asked(data, letters.mark(servers, box, found[-1].offset + 1))
    if as_json:
        output.as_json({"redriven": 0 if dry_run else len(found), "letters": [_described(each) for each in found]})
    else:
        said = "Would send back" if dry_run else "Sent back"
        output.console.print(f"{said} {len(found)} of {box.waiting} waiting in {box.topic}.", highlight=False)


def _box(data: Any, servers: str, topic: str, partition: int) -> Box:
    found = _asked(data, letters.boxes(servers, topic))
    for box in found:
        if box.partition == partition:
            return box
    raise CommandError(f"there are no dead letters of {topic} in partition {partition}", hint="see penstock dlq list")


def _asked(data: Any, question: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(question)
    except letters.UNREACHABLE as error:
        raise unreachable("Kafka", bootstrap_servers(data), str(error) or type(error).__name__) from None


def _described(letter: Letter) -> dict[str, Any]:
    return {
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "timestamp_ms": letter.timestamp,
        "origin": letter.origin,
        "errors": letter.errors,
        "key_base64": None if letter.key is None else base64.b64encode(letter.key).decode(),
        "value_base64": None if letter.value is None else base64.b64encode(letter.value).decode(),
        "value": None if letter.value is None else letter.value.decode(errors="replace"),
        "headers": {name: value.decode(errors="replace") for name, value in letter.headers},
    }


def _preview(content: bytes | None) -> str:
    if content is None:
        return "(none)"
    more = "…" if len(content) > SHOWN_BYTES else ""
    return content[:SHOWN_BYTES].decode(errors="backslashreplace") + more
