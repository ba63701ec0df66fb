"""Owns the HTTP of blobs: a tenant stores and reads what its runs refer to, by digest."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Path, Query, Request, Response, status
from pydantic import BaseModel, ConfigDict, Field

from penstock.contracts.blobs import JSON, VALUE_BYTES_MAX, parsed_digest
from penstock.runtime.blobs import BlobCorruptError, BlobMissingError, NoBlobStoreError
from penstock.runtime.errors import Unavailable
from services.gateway.api.problems import FaultBody, ProblemBody, ProblemError
from services.gateway.api.runs import check_tenant, gateway_of
from services.gateway.api.strict import LargeRoute, TenantOf

router = APIRouter(
    prefix="/v1/blobs",
    tags=["blobs"],
    route_class=LargeRoute,
    responses={code: {"model": ProblemBody} for code in (400, 404, 413, 422, 502, 503)},
)

OCTETS: Final = "application/octet-stream"
SHOWN: Final = frozenset({JSON, "text/plain", "image/png", "image/jpeg", "image/webp", "image/gif"})
"""What is answered as what it is said to be; a browser runs none of them. All else is a file of bytes."""
STORED_BODY: Final[dict[str, Any]] = {
    "requestBody": {"required": True, "content": {"image/*": {}, OCTETS: {}, JSON: {}}}
}


class BlobReference(BaseModel):
    """What stands in a run's input for what was stored."""

    model_config = ConfigDict(populate_by_name=True)

    blob: str = Field(
        alias="$blob", examples=["sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"]
    )
    bytes: int
    media_type: str = Field(examples=["image/png"])


@router.post("", status_code=status.HTTP_201_CREATED, response_model=BlobReference, openapi_extra=STORED_BODY)
async def store_blob(
    request: Request, tenant: TenantOf, content_type: Annotated[str, Header(include_in_schema=False)] = OCTETS
) -> dict[str, Any]:
    """Store a document or an image; answers the reference to use in a run's input. The same again changes nothing."""
    gateway = gateway_of(request)
    check_tenant(gateway, tenant)
    content = await request.body()
    if len(content) > VALUE_BYTES_MAX:
        detail = f"The body has {len(content)} bytes; a blob may have {VALUE_BYTES_MAX}."
        raise ProblemError(413, "value_too_large", "The blob is too large", detail)
    try:
        reference = await gateway.blobs.put(content, tenant, content_type.partition(";")[0].strip().lower())
    except (Unavailable, NoBlobStoreError) as error:
        raise store_away(error) from error
    return reference.to_value()


@router.get("/{digest}", response_class=Response)
async def read_blob(
    request: Request,
    digest: Annotated[str, Path(description="sha256:… as a reference has it")],
    tenant: TenantOf,
    media_type: Annotated[str, Query(description="as the reference says; it is not stored with the blob")] = OCTETS,
    preview: Annotated[int | None, Query(ge=1, le=65_536, description="so many characters, as text")] = None,
) -> Response:
    """Read a blob of a tenant, or how it begins."""
    gateway = gateway_of(request)
    check_tenant(gateway, tenant)
    known = parsed_digest(digest.replace("%3A", ":").replace("%3a", ":"))
    if known is None:
        fault = FaultBody(path="path.digest", message="expected sha256: and 64 hexadecimal digits")
        raise ProblemError(400, "invalid_digest", "The digest is not valid", fault.message, errors=[fault])
    try:
        content = await gateway.blobs.read_digest(known, tenant)
    except BlobMissingError as error:
        raise ProblemError(404, "unknown_blob", "No such blob", str(error)) from error
    except BlobCorruptError as error:
        raise ProblemError(502, "corrupt_blob", "The blob is corrupt", str(error)) from error
    except (Unavailable, NoBlobStoreError) as error:
        raise store_away(error) from error
    headers = {
        "cache-control": "private, max-age=31536000, immutable",
        "etag": f'"{known}"',
        "x-content-type-options": "nosniff",
        "content-security-policy": "default-src 'none'; sandbox",
    }
    if preview is not None:
        # Cut where a character ends: one has four bytes at most.
        return Response(
            content[: 4 * preview].decode(errors="ignore")[:preview], media_type="text/plain", headers=headers
        )
    return Response(content, media_type=media_type if media_type in SHOWN else OCTETS, headers=headers)


def store_away(error: Exception) -> ProblemError:
    """503."""
    hint = "set PENSTOCK_BLOB_URL" if isinstance(error, NoBlobStoreError) else "send it again"
    return ProblemError(503, "blob_store_away", "The blob store does not answer", str(error), hint=hint)
