"""Owns the blob store: contents by their digest, a tenant's apart from all others', checked whenever they are read.

The store is whatever `obstore` opens by URL: `file:///folder`, `s3://bucket/prefix`, `gs://…`, `az://…`, `memory://`.
A content is found under `<tenant>/<first two digits>/<digest>`, so the same content of two tenants is stored twice, and
a digest alone opens nothing of another tenant's. Writing a content again changes nothing but its age.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import obstore
import orjson
from obstore.exceptions import BaseError
from obstore.store import LocalStore, MemoryStore, from_url

from penstock.contracts.blobs import (
    JSON,
    VALUE_BYTES_MAX,
    Reference,
    ValueTooLargeError,
    externalised,
    reference_of,
    reference_to,
    references_in,
    replaced,
)
from penstock.contracts.ids import TENANT_PATTERN
from penstock.runtime.errors import Permanent, Unavailable

CACHE_BYTES_MAX: Final = 64 * 1024 * 1024
CALL_SECONDS_MAX: Final = 30.0
"""What one read or write of the store may take; past it the store counts as away."""
CALLS_MAX: Final = 16
"""Reads or writes of one value's blobs at a time."""
_NO_BUCKET: Final = ("NoSuchBucket", "The specified bucket does not exist", "ContainerNotFound")
"""How S3, Google and Azure say it. To the library an object in a bucket that is not there is one that is not there."""
_RETRIES: Final[Any] = {"max_retries": 2, "retry_timeout": timedelta(seconds=10)}
"""Short: whoever asks waits by a back-off of its own, as long as its work has time."""


class BlobMissingError(Permanent):
    """Nothing is stored under a digest: it never was, or not for this tenant, or it has expired."""


class BlobCorruptError(Permanent):
    """What is stored under a digest has another one, or does not hold what its reference says."""


class NoBlobStoreError(Permanent):
    """There is no store: PENSTOCK_BLOB_URL is not set."""


class Blobs:
    """One process's way to the store. What was read or written last is kept in memory, CACHE_BYTES_MAX of it."""

    def __init__(self, url: str, *, cache_bytes_max: int = CACHE_BYTES_MAX) -> None:
        """An empty `url` is no store. Raises ValueError for one that cannot be opened."""
        self._folder: Final = _folder_of(url)
        self._store: Final = _opened(url, self._folder)
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._cache_bytes_max: Final = cache_bytes_max
        self._cached_bytes = 0

    @property
    def there(self) -> bool:
        """Whether a store is set at all."""
        return self._store is not None

    @property
    def expires(self) -> bool:
        """Whether old blobs are ours to remove: a folder has nobody else who does, other stores have rules for it."""
        return self._folder is not None

    async def put(self, content: bytes, tenant: str, media_type: str = JSON) -> Reference:
        """Stores a content. Raises Unavailable, ValueTooLargeError, NoBlobStoreError."""
        if len(content) > VALUE_BYTES_MAX:
            raise ValueTooLargeError("the blob", len(content), VALUE_BYTES_MAX)
        reference = reference_to(content, media_type)
        await self._write(reference, content, tenant)
        return reference

    async def read(self, reference: Reference | Mapping[str, Any], tenant: str) -> bytes:
        """The content that a reference stands for.

        Raises BlobMissingError, BlobCorruptError, NoBlobStoreError and, where trying again can help, Unavailable.
        """
        known = reference if isinstance(reference, Reference) else reference_of(dict(reference))
        if known is None:
            raise BlobCorruptError("this is not a reference to a blob")
        content = await self.read_digest(known.digest, tenant)
        if len(content) != known.size_bytes:
            text = f"the blob sha256:{known.digest} has {len(content)} bytes, its reference says {known.size_bytes}"
            raise BlobCorruptError(text)
        return content

    async def read_digest(self, digest: str, tenant: str) -> bytes:
        """The content under a digest, as `read` gives it, where its size is not known."""
        path = _path(digest, tenant)
        content = self._cache.get(path)
        if content is None:
            content = await self._fetch(path, digest)
            self._keep(path, content)
        else:
            self._cache.move_to_end(path)
        return content

    async def stored(self, value: Any, tenant: str, name: str = "$") -> Any:
        """The value as it travels, its large parts stored. Raises as `put` and `externalised` do."""
        small = await asyncio.to_thread(externalised, value, name)
        await self.write_all(small.contents, tenant)
        return small.value

    async def write_all(self, contents: Mapping[Reference, bytes], tenant: str) -> None:
        """Stores contents that have their references already. Raises as `put` does."""
        places = asyncio.Semaphore(CALLS_MAX)

        async def write(reference: Reference, content: bytes) -> None:
            async with places:
                await self._write(reference, content, tenant)

        await asyncio.gather(*(write(reference, content) for reference, content in contents.items()))

    async def whole(self, value: Any, tenant: str) -> Any:
        """The value with what its references to JSON stand for. Raises as `read` and `replaced` do."""
        found: dict[Reference, Any] = {}
        wanted = set(references_in(value))
        while wanted:
            replaced(value, found.get)  # before more is read: is it too large already?
            contents = await self._read_all(wanted, tenant)
            found |= contents
            wanted = {inner for content in contents.values() for inner in references_in(content)} - found.keys()
        return replaced(value, found.__getitem__) if found else value

    async def expire(self, before: datetime) -> int:
        """Removes what was last written before a time, where that `expires`; how many. Raises Unavailable."""
        if not self.expires:
            return 0
        removed = 0
        self._require_folder()
        try:
            async for listed in obstore.list(self._store):
                old = [each["path"] for each in listed if each["last_modified"] < before]
                if old:
                    await obstore.delete_async(self._store, old)
                    removed += len(old)
        except (BaseError, OSError) as error:
            raise Unavailable(f"the blob store cannot be looked through: {_said(error)}") from error
        return removed

    async def _read_all(self, wanted: set[Reference], tenant: str) -> dict[Reference, Any]:
        places = asyncio.Semaphore(CALLS_MAX)

        async def read(reference: Reference) -> Any:
            async with places:
                return parsed(reference, await self.read(reference, tenant))

        ordered = list(wanted)
        return dict(zip(ordered, await asyncio.gather(*(read(each) for each in ordered)), strict=True))

    async def _write(self, reference: Reference, content: bytes, tenant: str) -> None:
        path = _path(reference.digest, tenant)
        if self._store is None:
            raise NoBlobStoreError("a value this large needs a blob store: set PENSTOCK_BLOB_URL")
        self._require_folder()
        try:
            async with asyncio.timeout(CALL_SECONDS_MAX):
                await obstore.put_async(self._store, path, content)
        except (BaseError, OSError, TimeoutError) as error:
            raise Unavailable(f"the blob store does not take {path}: {_said(error)}") from error
        self._keep(path, content)

    async def _fetch(self, path: str, digest: str) -> bytes:
        if self._store is None:
            raise NoBlobStoreError("a value in a blob store can only be read with it: set PENSTOCK_BLOB_URL")
        self._require_folder()
        try:
            async with asyncio.timeout(CALL_SECONDS_MAX):
                found = await obstore.get_async(self._store, path)
                if found.meta["size"] > VALUE_BYTES_MAX:
                    raise BlobCorruptError(f"the blob sha256:{digest} has {found.meta['size']} bytes")
                content = bytes(await found.bytes_async())
        except FileNotFoundError as error:
            self._require_folder()  # gone between the two: the store is away, the blob is not
            if any(code in str(error) for code in _NO_BUCKET):
                raise Unavailable(f"the blob store's bucket is not there: {_said(error)}") from error
            text = f"there is no blob sha256:{digest}: it was never stored for this tenant, or it has expired"
            raise BlobMissingError(text) from None
        except (BaseError, OSError, TimeoutError) as error:
            raise Unavailable(f"the blob store does not give {path}: {_said(error)}") from error
        said = await asyncio.to_thread(lambda: hashlib.sha256(content).hexdigest())
        if said != digest:
            raise BlobCorruptError(
                f"the blob sha256:{digest} is corrupt: what is stored there has the digest sha256:{said}"
            )
        return content

    def _require_folder(self) -> None:
        """A folder that is gone, as one that is not mounted, is a store that is away: nothing in it is missing."""
        if self._folder is not None and not self._folder.is_dir():
            raise Unavailable(f"the blob store's folder {self._folder} is not there")

    def _keep(self, path: str, content: bytes) -> None:
        before = self._cache.pop(path, None)
        self._cached_bytes += len(content) - (0 if before is None else len(before))
        self._cache[path] = content
        while self._cached_bytes > self._cache_bytes_max:
            _, dropped = self._cache.popitem(last=False)
            self._cached_bytes -= len(dropped)


def parsed(reference: Reference, content: bytes) -> Any:
    """The value that a content is. Raises BlobCorruptError."""
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise BlobCorruptError(f"the blob sha256:{reference.digest} is not JSON: {error}") from None


def _path(digest: str, tenant: str) -> str:
    if TENANT_PATTERN.fullmatch(tenant) is None:
        raise BlobMissingError(f"{tenant!r} is not a tenant")
    return f"{tenant}/{digest[:2]}/{digest}"


def _folder_of(url: str) -> Path | None:
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def _opened(url: str, folder: Path | None) -> Any:
    if not url:
        return None
    try:
        if folder is not None:
            return LocalStore(folder, mkdir=True)
        if urlsplit(url).scheme == "memory":
            return MemoryStore()
        return from_url(url, retry_config=_RETRIES)
    except (BaseError, OSError) as error:
        raise ValueError(f"no blob store at {url!r}: {_said(error)}") from None


def _said(error: BaseException) -> str:
    """The first line: what follows it is for the library's own developers."""
    return str(error).partition("\n")[0] or type(error).__name__
