"""Owns the look at an image before a model sees it: is it one, of the kind and size that its reference says."""

from typing import Final

from penstock.contracts.messages import Image, InferenceRequested

IMAGE_BYTES_MAX: Final = 16 * 1024 * 1024
IMAGES_BYTES_MAX: Final = 32 * 1024 * 1024

_JPEG_END: Final = b"\xff\xd9"


def images_of(request: InferenceRequested) -> list[Image]:
    """All images of a request, in their order."""
    images: list[Image] = []
    for message in request.messages:
        if message.images:
            images += message.images
    return images


def image_fault(image: Image, content: bytes) -> str | None:
    """What is wrong with an image's bytes; None where nothing is, as far as its first and last bytes tell."""
    name = f"image {image.blob[:15]}…"
    if len(content) != image.bytes:
        return f"{name} has {len(content)} bytes, its reference says {image.bytes}"
    if len(content) > IMAGE_BYTES_MAX:
        return f"{name} has {len(content)} bytes, the limit is {IMAGE_BYTES_MAX}"
    kind = kind_of(content)
    if kind is None:
        return f"{name} is no PNG, JPEG, GIF or WebP"
    said = image.media_type.replace("image/jpg", "image/jpeg")
    if said != kind:
        return f"{name} is {kind}, its reference says {image.media_type}"
    return None


def kind_of(content: bytes) -> str | None:
    """The media type by the bytes that a format begins with and, where it has them, ends with."""
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png" if content[12:16] == b"IHDR" and b"IEND" in content[-16:] else None
    if content.startswith(b"\xff\xd8\xff"):
        return "image/jpeg" if _JPEG_END in content[-64:] else None
    if content[:6] in (b"GIF87a", b"GIF89a"):
        return "image/gif" if len(content) > 13 else None
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp" if 8 + int.from_bytes(content[4:8], "little") <= len(content) else None
    return None
