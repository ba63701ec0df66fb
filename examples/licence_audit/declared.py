"""Owns what a package says of its own licence, and which kind of licence that is.

The table is small and honest: what it does not know, and what mixes kinds, is no kind and is not counted.
"""

import re
from email.message import Message
from importlib.metadata import PackageMetadata
from pathlib import PurePath
from typing import Final, Literal, cast

Kind = Literal["permissive", "weak_copyleft", "strong_copyleft", "other"]

DECLARED_CHARACTERS_MAX: Final = 120
"""Some packages put the whole licence into the field that is meant for its name."""

# The first line that matches decides: "GNU Lesser General Public License" holds "General Public License" too.
_KINDS: Final[tuple[tuple[re.Pattern[str], Kind], ...]] = (
    (re.compile(r"lesser|library general|\bLGPL", re.I), "weak_copyleft"),
    (re.compile(r"affero|general public licen[cs]e|\bA?GPL", re.I), "strong_copyleft"),
    (re.compile(r"mozilla|\bMPL|eclipse public|\bEPL|\bCDDL", re.I), "weak_copyleft"),
    (
        re.compile(
            r"\b(MIT(-0)?|0?BSD|Apache|ISC|ISCL|PSF|Python Software Foundation|Unlicense|Zlib|CC0|BSL|HPND|MIT-CMU)\b",
            re.I,
        ),
        "permissive",
    ),
)
_PARTS: Final = re.compile(r"\s+(?:AND|OR)\s+|[()/;,]", re.I)
_FAMILY: Final = re.compile(r"[A-Za-z]+")


def declared_licence(metadata: PackageMetadata) -> str:
    """The licence in a package's own words: its expression, else its short name, else its classifiers; or nothing."""
    message = cast(Message, metadata)
    expression = str(message.get("License-Expression") or "").strip()
    if expression:
        return expression[:DECLARED_CHARACTERS_MAX]
    name = str(message.get("License") or "").strip()
    if name and len(name) <= DECLARED_CHARACTERS_MAX and "\n" not in name and name.upper() != "UNKNOWN":
        return name
    classifiers = [str(value) for value in message.get_all("Classifier") or []]
    named = [value.rpartition("::")[2].strip() for value in classifiers if value.startswith("License ::")]
    approved = [value for value in named if value not in ("OSI Approved", "DFSG approved")]
    return " AND ".join(approved)[:DECLARED_CHARACTERS_MAX]


def declared_family(declared: str) -> str:
    """The first word of a declaration, as `APACHE` or `MIT`; nothing where nothing is declared."""
    family = _FAMILY.search(declared)
    return family[0].upper() if family else ""


def declared_kind(declared: str, file_name: str = "") -> Kind | None:
    """The kind that a declaration stands for. None: nothing declared, a name not in the table, or mixed kinds.

    A package under several licences has a file for each: a part of the declaration that the file's name mentions
    (`LICENSE-MIT`, `LICENSE.BSD`) is what that file is.
    """
    parts = [part.strip() for part in _PARTS.split(declared) if part.strip()]
    name = PurePath(file_name).name.upper()
    named = [part for part in parts if (family := declared_family(part)) and family in name]
    kinds = {_kind_of(part) for part in named or parts}
    return kinds.pop() if len(kinds) == 1 else None


def _kind_of(part: str) -> Kind | None:
    if re.search(r"\bWITH\b", part, re.I):
        return None  # an exception changes what the licence asks for
    return next((kind for pattern, kind in _KINDS if pattern.search(part)), None)
