"""Owns finding what is audited: the licence files of the installed packages, or the text files of a folder."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path, PurePath
from typing import Final

from examples.licence_audit.declared import declared_family, declared_licence

DOCUMENT_BYTES_MAX: Final = 1_048_576
FILES_MAX: Final = 10_000
PROBE_BYTES: Final = 8_192

_NAME: Final = re.compile(r"^(licen[cs]e|copying)\b", re.I)
_NOT_TEXT: Final = frozenset({".py", ".pyc", ".so", ".json", ".html"})


@dataclass(frozen=True, slots=True)
class Document:
    """One document as the workflow's input names it."""

    path: str
    package: str
    version: str = ""
    declared: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """Everything there is to audit: each text once, and how many files were the same as another or no text."""

    documents: tuple[Document, ...]
    duplicates: int
    skipped: int


@dataclass(frozen=True, slots=True)
class Selection:
    """What is audited of it."""

    documents: tuple[Document, ...]
    found: Found

    def input(self) -> dict[str, list[dict[str, str]]]:
        """The run's input."""
        return {"documents": [asdict(document) for document in self.documents]}


def installed() -> Found:
    """The licence files of the packages in this environment, by package name."""
    packages = sorted(distributions(), key=lambda package: package.name.lower())
    return _distinct(document for package in packages for document in _of_package(package))


def in_folder(folder: Path) -> Found:
    """The text files of a folder and of those below it, hidden ones left out. Nothing is known of their licences."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not _hidden(path.relative_to(folder)))
    return _distinct(Document(str(path.resolve()), str(path.relative_to(folder))) for path in files[:FILES_MAX])


def select(found: Found, limit: int | None) -> Selection:
    """At most `limit` documents, taken in turn from each family of declared licences, so that a few show many."""
    if limit is None or len(found.documents) <= limit:
        return Selection(found.documents, found)
    groups: dict[str, list[Document]] = {}
    for document in found.documents:
        groups.setdefault(declared_family(document.declared), []).append(document)
    return Selection(tuple(_in_turn([groups[name] for name in sorted(groups)], limit)), found)


def _in_turn(groups: Sequence[Sequence[Document]], limit: int) -> list[Document]:
    longest = max(map(len, groups))
    turns = [group[turn] for turn in range(longest) for group in groups if turn < len(group)]
    return turns[:limit]


def _of_package(package: Distribution) -> Iterator[Document]:
    """The files beside the metadata; only without any, the ones inside the package, nearest its root first."""
    named = [file for file in package.files or () if _NAME.match(file.name) and file.suffix not in _NOT_TEXT]
    own = [file for file in named if any(part.endswith(".dist-info") for part in file.parts)]
    chosen = own or sorted(named, key=lambda file: (len(file.parts), str(file)))[:1]
    declared = declared_licence(package.metadata)
    for file in chosen:
        path = Path(str(package.locate_file(PurePath(file))))
        if path.is_file():
            yield Document(str(path.resolve()), package.name, package.version, declared)


def _distinct(documents: Iterable[Document]) -> Found:
    kept: dict[str, Document] = {}
    duplicates = skipped = 0
    for document in documents:
        path = Path(document.path)
        if path.stat().st_size > DOCUMENT_BYTES_MAX or not _is_text(path):
            skipped += 1
            continue
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        duplicates += digest in kept
        kept.setdefault(digest, document)
    return Found(tuple(kept.values()), duplicates, skipped)


def _is_text(path: Path) -> bool:
    with path.open("rb") as file:
        beginning = file.read(PROBE_BYTES)
    return b"\0" not in beginning or beginning.startswith((b"\xff\xfe", b"\xfe\xff"))


def _hidden(path: PurePath) -> bool:
    return any(part.startswith(".") for part in path.parts)
