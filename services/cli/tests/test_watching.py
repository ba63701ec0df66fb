"""What is shown of a run while it goes on: its progress in one line, and what its steps say while they say it."""

from collections.abc import Iterator
from typing import Any

from services.cli.door import Event
from services.cli.failures import CommandError
from services.cli.watching import LINES_MAX, Screen, Speech


def piece(begins: int, text: str, *, request: str = "one", **fields: Any) -> dict[str, Any]:
    return {"request_id": request, "step": f"main/{request}", "from_character": begins, "text": text, **fields}


def test_pieces_add_up_and_what_came_twice_is_there_once() -> None:
    speech = Speech()
    for each in (piece(0, "hel"), piece(3, "lo"), piece(3, "lo"), piece(5, " you")):
        speech.add(each)

    assert speech.lines() == ["main/one:", "  hello you"]


def test_an_answer_that_begins_again_replaces_what_was_said() -> None:
    speech = Speech()
    speech.add(piece(0, "hello there"))
    speech.add(piece(0, "good"))

    assert speech.lines() == ["main/one:", "  good"]


def test_answers_side_by_side_are_told_apart_until_they_end() -> None:
    speech = Speech()
    speech.add(piece(0, "first"))
    speech.add(piece(0, "second", request="two"))
    assert speech.lines() == ["main/one:", "  first", "main/two:", "  second"]

    speech.add(piece(5, "", final=True, status="succeeded"))

    assert speech.lines() == ["main/two:", "  second"]


def test_only_the_newest_lines_are_shown_and_nothing_that_moves_the_cursor() -> None:
    speech = Speech()
    speech.add(piece(0, "\n".join(f"line {number}" for number in range(20)) + "\x1b[2J"))

    lines = speech.lines()

    assert len(lines) == LINES_MAX + 1
    assert lines[-1] == "  line 19·[2J"


class DoorWithText:
    """A gateway that sends pieces."""

    def __init__(self, *events: Event, breaks: bool = False) -> None:
        self._events = events
        self._breaks = breaks

    def events(self, path: str, tenant: str, end: str = "finished") -> Iterator[Event]:
        assert (path, tenant, end) == ("/v1/runs/r/stream", "default", "ended")
        yield from self._events
        if self._breaks:
            raise CommandError("too many streams")


def test_a_screen_shows_what_is_said_until_the_run_is_over() -> None:
    screen = Screen("r")
    screen.add({"status": "running", "changes": [{"step": "main/one", "phase": "waiting"}]})

    screen.hear(DoorWithText(Event("piece", piece(0, "hello"), "0-1"), breaks=True), "default")  # type: ignore[arg-type]  # all that it is asked

    shown = screen.__rich__().plain.splitlines()
    assert shown[0].startswith("r running  0/1 steps")
    assert shown[1:] == ["main/one:", "  hello"]
    screen.close()
    assert len(screen.__rich__().plain.splitlines()) == 1
