"""Owns what can happen to a blob store in a folder: it goes away and comes back, and its files are damaged."""

from pathlib import Path

AWAY = "away"


def take_away(folder: Path) -> None:
    """As a folder that is not mounted any more."""
    folder.rename(folder.with_name(AWAY))


def bring_back(folder: Path) -> None:
    """With all that was in it."""
    folder.with_name(AWAY).rename(folder)


def stored(folder: Path) -> list[Path]:
    """The files of all blobs."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def damage(folder: Path) -> None:
    """Every blob has another content."""
    for path in stored(folder):
        path.write_bytes(b"damaged")
