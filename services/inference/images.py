"""Owns where images come from: their bytes out of the blob store, looked at before any engine sees them."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from penstock.contracts.messages import ChatMessage, Image, InferenceRequested, NextMove, WorkError
from penstock.runtime.errors import Permanent, Unavailable
from penstock.runtime.work import failed
from services.inference.core.images import image_fault, images_of
from services.inference.core.refusals import image_invalid
from services.inference.engines.protocol import LoadedImage

Read = Callable[[dict[str, Any], str], Awaitable[bytes]]
"""The content of a blob reference, for a tenant. Raises Permanent where there is none, Unavailable where to wait."""


async def _nowhere(reference: dict[str, Any], tenant: str) -> bytes:
    del reference, tenant
    raise Permanent("there is no blob store here")


class Images:
    """Loads the images of requests."""

    def __init__(self, read: Read = _nowhere) -> None:
        self._read: Final = read

    async def loaded(self, request: InferenceRequested) -> InferenceRequested | WorkError:
        """The request with every image's bytes at hand, or why one of them cannot be shown to a model."""
        if not images_of(request):
            return request
        messages: list[ChatMessage] = []
        try:
            for message in request.messages:
                images = [await self._loaded(image, request.tenant) for image in message.images or ()]
                messages.append(message.model_copy(update={"images": images}) if images else message)
        except (_NoImageError, Permanent) as error:
            return image_invalid(str(error))
        except Unavailable as error:
            return failed("blob_store_away", f"an image could not be read: {error}", NextMove.RETRY_AFTER)
        return request.model_copy(update={"messages": messages})

    async def _loaded(self, image: Image, tenant: str) -> LoadedImage:
        reference = {"$blob": image.blob, "bytes": image.bytes, "media_type": image.media_type}
        content = await self._read(reference, tenant)
        fault = image_fault(image, content)
        if fault is not None:
            raise _NoImageError(fault)
        return LoadedImage(blob=image.blob, bytes=image.bytes, media_type=image.media_type, content=content)


class _NoImageError(Exception):
    pass
