"""Owns an engine that tests script: an OpenAI-compatible endpoint that counts its calls and survives its callers."""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import orjson

LOOPBACK: Final = "127.0.0.1"
ANSWER_SECONDS: Final = 0.05
HEARD_SECONDS: Final = 60.0
TOKENS: Final = {"prompt_tokens": 12, "completion_tokens": 5}


@dataclass(frozen=True, slots=True)
class Call:
    """One call as it came."""

    request_id: str
    model: str
    conversation: tuple[str, ...]


class ScriptedEngine:
    """Answers "fine", or what was scripted for a phrase in the conversation, once per script line."""

    def __init__(self) -> None:
        self.calls: Final[list[Call]] = []
        self.url = ""
        self._scripts: Final[dict[str, deque[str]]] = defaultdict(deque)
        self._held: Final[dict[str, asyncio.Event]] = {}
        self._left: Final[dict[str, asyncio.Event]] = defaultdict(asyncio.Event)
        self._arrived: Final[dict[str, asyncio.Event]] = defaultdict(asyncio.Event)
        self._players: Final[dict[str, Callable[[tuple[str, ...]], str]]] = {}

    def answer(self, phrase: str, *answers: str) -> None:
        """What to say, one after the other, to conversations that begin with this phrase."""
        self._scripts[phrase].extend(answers)

    def play(self, phrase: str, player: Callable[[tuple[str, ...]], str]) -> None:
        """Who answers conversations that begin with this phrase, from all that was said in them."""
        self._players[phrase] = player

    def hold(self, phrase: str) -> None:
        """Let calls whose conversation begins with this phrase wait until they are released."""
        self._held[phrase] = asyncio.Event()

    def release(self, phrase: str) -> None:
        """Answer them."""
        self._held.pop(phrase).set()

    async def arrived(self, phrase: str) -> None:
        """Returns once such a call is held."""
        async with asyncio.timeout(HEARD_SECONDS):
            await self._arrived[phrase].wait()

    async def left(self, phrase: str) -> None:
        """Returns once whoever made such a call has hung up without its answer."""
        async with asyncio.timeout(HEARD_SECONDS):
            await self._left[phrase].wait()

    def calls_about(self, phrase: str) -> list[Call]:
        """The calls whose conversation begins with this phrase."""
        return [call for call in self.calls if call.conversation[0].startswith(phrase)]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, one exchange."""
        try:
            method, path, headers, body = await _request(reader)
            if method == "GET":
                _write(writer, "application/json", orjson.dumps({"object": "list", "data": []}))
            elif path.endswith("/chat/completions"):
                asked = orjson.loads(body)
                conversation = tuple(message["content"] for message in asked["messages"])
                self.calls.append(Call(headers.get("x-request-id", ""), asked["model"], conversation))
                await asyncio.sleep(ANSWER_SECONDS)
                await self._while_held(conversation, reader)
                _write(writer, "text/event-stream", _stream(self._next_answer(conversation)))
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # whoever called was killed
        finally:
            writer.close()

    async def _while_held(self, conversation: tuple[str, ...], reader: asyncio.StreamReader) -> None:
        """Returns when the call is released. Raises ConnectionError where its caller hangs up before."""
        for phrase, released in self._held.items():
            if conversation[0].startswith(phrase):
                self._arrived[phrase].set()
                waits = [asyncio.ensure_future(released.wait()), asyncio.ensure_future(reader.read(1))]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for each in waits:
                    each.cancel()
                if not released.is_set():
                    self._left[phrase].set()
                    raise ConnectionError("the caller hung up")
                return

    def _next_answer(self, conversation: tuple[str, ...]) -> str:
        for phrase, answers in self._scripts.items():
            if conversation[0].startswith(phrase) and answers:
                return answers.popleft()
        for phrase, player in self._players.items():
            if conversation[0].startswith(phrase):
                return player(conversation)
        return "fine"


@asynccontextmanager
async def scripted_engine() -> AsyncIterator[ScriptedEngine]:
    """An engine on a free port."""
    engine = ScriptedEngine()
    server = await asyncio.start_server(engine.serve, LOOPBACK, 0, backlog=512)
    engine.url = f"http://{LOOPBACK}:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield engine
    finally:
        server.close()


async def _request(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, path, _ = head[0].split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    return method, path, headers, await reader.readexactly(int(headers.get("content-length", 0)))


def _stream(text: str) -> bytes:
    chunks: list[Any] = [
        {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {"choices": [], "usage": TOKENS},
    ]
    return b"".join(b"data: " + orjson.dumps(chunk) + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"


def _write(writer: asyncio.StreamWriter, content_type: str, body: bytes) -> None:
    head = (
        f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    writer.write(head.encode() + body)
