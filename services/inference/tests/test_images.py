"""Tests of the look at images: what is none, or not what its reference says, no engine sees."""

from typing import Any

import pytest

from penstock.contracts.messages import ChatMessage, Image, InferenceRequested, NextMove, WorkError
from penstock.runtime.errors import Permanent, Unavailable
from services.inference.core.images import kind_of
from services.inference.engines.protocol import LoadedImage
from services.inference.images import Images
from services.inference.tests.scripted import a_request

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR" + bytes(17) + b"\x00\x00\x00\x00IEND\xaeB`\x82"
JPEG = b"\xff\xd8\xff\xe0" + bytes(40) + b"\xff\xd9"
GIF = b"GIF89a" + bytes(20)
WEBP = b"RIFF" + (34).to_bytes(4, "little") + b"WEBP" + bytes(30)


def seeing(size_bytes: int, media_type: str = "image/png") -> InferenceRequested:
    image = Image(blob="sha256:" + "0" * 64, bytes=size_bytes, media_type=media_type)
    return a_request(messages=[ChatMessage(role="user", content="what is this?", images=[image])])


def stored(content: bytes) -> Images:
    async def read(reference: dict[str, Any], tenant: str) -> bytes:
        assert (reference["$blob"], tenant) == ("sha256:" + "0" * 64, "default")
        return content

    return Images(read)


def failing(error: Exception) -> Images:
    async def read(reference: dict[str, Any], tenant: str) -> bytes:
        raise error

    return Images(read)


@pytest.mark.parametrize(
    ("content", "kind"), [(PNG, "image/png"), (JPEG, "image/jpeg"), (GIF, "image/gif"), (WEBP, "image/webp")]
)
async def test_an_image_comes_with_its_bytes(content: bytes, kind: str) -> None:
    loaded = await stored(content).loaded(seeing(len(content), kind))

    assert isinstance(loaded, InferenceRequested)
    assert [isinstance(each, LoadedImage) and each.content for each in loaded.messages[0].images or ()] == [content]


@pytest.mark.parametrize(
    ("content", "size_bytes", "media_type", "says"),
    [
        (PNG, 9, "image/png", "its reference says 9"),
        (b"<svg/>", 6, "image/png", "no PNG, JPEG, GIF or WebP"),
        (PNG[:-12], len(PNG) - 12, "image/png", "no PNG, JPEG, GIF or WebP"),
        (JPEG[:-2], len(JPEG) - 2, "image/jpeg", "no PNG, JPEG, GIF or WebP"),
        (WEBP[:-9], len(WEBP) - 9, "image/webp", "no PNG, JPEG, GIF or WebP"),
        (PNG, len(PNG), "image/jpeg", "is image/png"),
        (b"", 0, "image/png", "no PNG"),
    ],
)
async def test_an_image_that_is_none_is_refused(content: bytes, size_bytes: int, media_type: str, says: str) -> None:
    refused = await stored(content).loaded(seeing(size_bytes, media_type))

    assert isinstance(refused, WorkError)
    assert (refused.code, refused.next) == ("image_invalid", NextMove.GIVE_UP)
    assert says in refused.message


async def test_a_store_that_is_away_is_tried_again_and_one_without_the_image_is_not() -> None:
    away = await failing(Unavailable("no connection")).loaded(seeing(9))
    missing = await failing(Permanent("nothing is stored there")).loaded(seeing(9))
    none = await Images().loaded(seeing(9))

    assert isinstance(away, WorkError)
    assert (away.code, away.next) == ("blob_store_away", NextMove.RETRY_AFTER)
    assert all(isinstance(each, WorkError) and each.code == "image_invalid" for each in (missing, none))


async def test_a_request_without_images_asks_nobody() -> None:
    request = a_request()

    assert await failing(AssertionError()).loaded(request) is request


def test_what_is_too_short_to_be_anything_is_nothing() -> None:
    assert [kind_of(content[:size]) for content in (PNG, JPEG, GIF, WEBP) for size in range(9)] == [None] * 36
