"""Answers watched while they come: how pieces are put together, and what a watcher sees through the door."""

import asyncio
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import orjson
import pytest

from penstock.contracts import ids, topics
from penstock.contracts.messages import InferenceStreamed
from penstock.runtime.kafka.broker import GroupSettings
from penstock.runtime.kafka.records import TopicPartition
from penstock.testkit.log import MemoryLog
from services.gateway.pieces import PieceReader, Place, put_together
from services.gateway.tests.conftest import Running
from services.gateway.tests.test_api import finished, progressed


def piece(run_id: str, sequence: int, begins: int, text: str, *, whole: str | None = None, step: str = "say") -> Any:
    """A piece of an answer; the last one where `whole` says what all of it is."""
    last: dict[str, Any] = {}
    if whole is not None:
        last = {"final": True, "status": "succeeded", "finish_reason": "stop"}
        last["sha256"] = sha256(whole.encode()).hexdigest()
    key = ids.run_key("default", run_id)
    return InferenceStreamed(
        request_id=ids.request_id(key, step, 1),
        tenant="default",
        run_key=key,
        run_id=run_id,
        step=step,
        attempt=1,
        sequence=sequence,
        from_character=begins,
        text=text,
        tokens=sequence + 1,
        at=datetime.now(UTC),
        **last,
    )


def plain(*pieces: InferenceStreamed) -> list[dict[str, Any]]:
    return [orjson.loads(each.to_json()) for each in pieces]


def test_what_follows_one_another_is_put_together_to_its_end() -> None:
    pieces = plain(
        piece("r", 0, 0, "hel"),
        piece("r", 0, 0, "other", step="aside"),
        piece("r", 1, 3, "lo"),
        piece("r", 2, 5, "!", whole="hello!"),
    )

    merged = put_together(pieces)

    assert [(each["step"], each["from_character"], each["text"], each["final"]) for each in merged] == [
        ("say", 0, "hello!", True),
        ("aside", 0, "other", False),
    ]
    assert merged[0]["sequence"] == 2
    assert merged[0]["sha256"] == sha256(b"hello!").hexdigest()


def test_an_answer_that_begins_again_stays_apart_from_what_was_before() -> None:
    merged = put_together(plain(piece("r", 0, 0, "hel"), piece("r", 0, 0, "other"), piece("r", 1, 5, " one")))

    assert [each["text"] for each in merged] == ["hel", "other one"]


@pytest.mark.parametrize("text", ["", "1", "-", "1-", "a-1", "1-2-3", "-1-2", "1" * 40 + "-1"])
def test_a_place_is_one_of_ours(text: str) -> None:
    with pytest.raises(ValueError, match="no place"):
        Place.parse(text)

    assert Place.parse(str(Place(3, 17))) == Place(3, 17)


async def test_what_is_no_piece_is_passed_over() -> None:
    # given a run's topic with things under its key that are no pieces, and one piece behind them
    log = MemoryLog({topics.INFERENCE_STREAMED.name: 1})
    key = ids.run_key("default", "r")
    for value in (b"{", b"\xff", b"[]", None, piece("r", 0, 0, "hello").to_json()):
        log.append(topics.INFERENCE_STREAMED.name, key=str(key).encode(), value=value, partition=0)
    consumer = log.consumer(GroupSettings(None))
    await consumer.start()
    place = TopicPartition(topics.INFERENCE_STREAMED.name, 0)
    consumer.assign([place])
    await consumer.seek_to_beginning(place)

    # when somebody reads it, then there is the piece
    pieces, reached = await PieceReader(consumer, place, key).read()
    assert ([each["text"] for each in pieces], reached) == (["hello"], Place(0, 4))
    await consumer.stop()


class Watcher:
    """Somebody who reads a stream: what came so far, and the ids with it."""

    def __init__(self, gateway: Running, path: str, **headers: str) -> None:
        self.events: list[tuple[str, dict[str, Any], str | None]] = []
        self.news = asyncio.Condition()
        self.reading = asyncio.create_task(self._read(gateway, path, headers))

    async def _read(self, gateway: Running, path: str, headers: dict[str, str]) -> None:
        name, identifier = "", None
        async with gateway.http.stream("GET", path, headers=headers) as stream:
            assert stream.status_code == 200
            async for line in stream.aiter_lines():
                field, _, value = line.partition(": ")
                if field == "id":
                    identifier = value
                elif field == "event":
                    name = value
                elif field == "data":
                    async with self.news:
                        self.events.append((name, orjson.loads(value), identifier))
                        self.news.notify_all()
                    identifier = None

    def text(self) -> str:
        """What the pieces come to."""
        text = ""
        for name, body, _ in self.events:
            if name == "piece":
                text = text[: body["from_character"]] + body["text"]
        return text

    async def has(self, text: str) -> None:
        """Returns once this much has come."""
        async with asyncio.timeout(30), self.news:
            await self.news.wait_for(lambda: self.text() == text)


@pytest.mark.stack
async def test_pieces_are_seen_while_they_come_and_again_from_where_somebody_left(gateway: Running) -> None:
    # given a run that has begun and said something, and somebody who begins to watch
    await gateway.say(topics.RUN_PROGRESSED, progressed("said", 1), "said")
    await gateway.until("/v1/runs/said", "status", "running")
    key = str(ids.run_key("default", "said"))
    await gateway.say(topics.INFERENCE_STREAMED, piece("said", 0, 0, "once "), key)
    watcher = Watcher(gateway, "/v1/runs/said/stream")
    await watcher.has("once ")

    # whom its page shows it to as well
    page = await gateway.http.get("/runs/said")
    assert "/stream" in page.text

    # when more comes, then it is seen before the answer is whole
    await gateway.say(topics.INFERENCE_STREAMED, piece("said", 1, 5, "upon "), key)
    await watcher.has("once upon ")
    place = watcher.events[-1][2]
    assert place is not None

    # and when the answer and its run are over, then that is the end
    await gateway.say(topics.INFERENCE_STREAMED, piece("said", 2, 10, "a time", whole="once upon a time"), key)
    await gateway.say(topics.RUN_PROGRESSED, progressed("said", 2, "completed"), "said")
    await gateway.say(topics.RUN_FINISHED, finished("said"), "said")
    await asyncio.wait_for(watcher.reading, 30)
    assert watcher.text() == "once upon a time"
    assert watcher.events[-1][:2] == ("ended", {"status": "completed"})
    assert "/stream" not in (await gateway.http.get("/runs/said")).text

    # and who comes back with the id of the last event gets the rest
    late = Watcher(gateway, "/v1/runs/said/stream", **{"last-event-id": place})
    await asyncio.wait_for(late.reading, 30)
    assert [(name, body.get("text")) for name, body, _ in late.events] == [("piece", "a time"), ("ended", None)]


@pytest.mark.stack
async def test_others_see_nothing_of_it(gateway: Running) -> None:
    await gateway.say(topics.RUN_PROGRESSED, progressed("mine", 1), "mine")
    await gateway.until("/v1/runs/mine", "status", "running")

    assert (await gateway.http.get("/v1/runs/mine/stream", params={"tenant": "acme"})).status_code == 404
    assert (await gateway.http.get("/v1/runs/nobodys/stream")).status_code == 404


@pytest.mark.stack
async def test_an_id_that_is_none_is_refused(gateway: Running) -> None:
    answer = await gateway.http.get("/v1/runs/mine/stream", headers={"last-event-id": "here"})

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_event_id")
