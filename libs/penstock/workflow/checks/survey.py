"""Owns a walk over a definition for those who look without judging: each block with its place, each prompt's scope."""

from penstock.workflow.checks import CHECKS, RUN
from penstock.workflow.checks.checker import Checker, Place, Scope
from penstock.workflow.definition import Block, Definition
from penstock.workflow.faults import Origins, Path
from penstock.workflow.shapes import Shape


class Survey(Checker):
    """Walks as the checks do and keeps what they know; the faults it finds on the way are the checks' to tell."""

    def __init__(self, definition: Definition) -> None:
        super().__init__(definition, Origins({}, {}), CHECKS)
        self.places: dict[str, Place] = {}
        """Of each block, by its id."""
        self.blocks: dict[str, Block] = {}
        self.scopes: dict[Path, Scope] = {}
        """What is in scope of each text template, by the template's path."""
        self.block(definition.do, Place(("do",), {"input": definition.input or None, "run": RUN}))

    def block(self, block: Block, place: Place) -> Shape:
        """Notes where the block stands."""
        self.places.setdefault(block.id, place)
        self.blocks.setdefault(block.id, block)
        return super().block(block, place)

    def text(self, source: str, path: Path, scope: Scope) -> None:
        """Notes what the template sees."""
        self.scopes[path] = scope
        super().text(source, path, scope)
