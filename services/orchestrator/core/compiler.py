"""Owns how blocks are compiled: what a compiled block is, and what the block kinds use to compile themselves."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

from penstock.contracts.messages import Budget, Money
from penstock.workflow.definition import Block, Definition
from penstock.workflow.expressions import Compiled, ExpressionError, compile_expression, compile_text, compile_value
from penstock.workflow.parts import Caps, Leaf
from penstock.workflow.schemas import Schema, SchemaError, compile_schema
from penstock.workflow.tiers import breaker_of, burst_of, routes_of
from services.orchestrator.core.breakers import TierRoute, tier_route
from services.orchestrator.core.frames import Answer, Frame
from services.orchestrator.core.leaf import LeafNode
from services.orchestrator.core.turn import Turn
from services.orchestrator.core.undo import UndoNode


def as_budget(caps: Caps) -> Budget:
    """What a definition allows, in the words of a run's budget."""
    cost = None if caps.cost is None else Money(amount=caps.cost.amount, currency=caps.cost.currency)
    return Budget(model_calls=caps.model_calls, tokens=caps.tokens, cost=cost)


class DefinitionError(ValueError):
    """A definition that does not compile; the message names the path and the fault."""


class Node(Protocol):
    """A compiled block."""

    @property
    def id(self) -> str:
        """The block's id, its part of the step paths."""

    def enter(self, turn: Turn, parent: Frame, slot: int, path: str) -> Answer:
        """Begins the block at `path`; its end goes to `parent` under `slot`."""


class Compiler:
    """Compiles one definition; the blocks call it for what is inside them."""

    def __init__(self, definition: Definition, kinds: "Mapping[type, Callable[[Any, Compiler], Node]]") -> None:
        self.depth_max = definition.depth_max
        self.undos: dict[str, UndoNode] = {}
        """Those compiled so far, by the ids of their steps."""
        self._tiers = definition.tiers
        self._kinds = kinds

    def block(self, block: Block) -> Node:
        """Any block, by its kind. Raises DefinitionError."""
        node = self._kinds[type(block)](block, self)
        if isinstance(block, Leaf) and block.undo is not None and isinstance(node, LeafNode):
            inner = self._kinds[type(block.undo)](block.undo, self)
            node.undo = self.undos[block.id] = UndoNode(block.undo, cast(LeafNode, inner))
        return node

    def routes(self, tier: str, block_id: str) -> tuple[TierRoute, ...]:
        """A tier's routes, in order."""
        if tier not in self._tiers:
            raise DefinitionError(f"{block_id}.model: there is no tier `{tier}`")
        breaker, burst = breaker_of(self._tiers[tier]), burst_of(self._tiers[tier])
        return tuple(tier_route(route, breaker, burst) for route in routes_of(self._tiers[tier]))

    def value(self, value: Any, where: str) -> Compiled:
        """JSON with templates in its strings."""
        try:
            return compile_value(value)
        except ExpressionError as error:
            raise DefinitionError(f"{where}: {error}") from None

    def text(self, source: str, where: str) -> Compiled:
        """A template whose value is text."""
        try:
            return compile_text(source)
        except ExpressionError as error:
            raise DefinitionError(f"{where}: {error}") from None

    def expression(self, source: str, where: str) -> Compiled:
        """A bare expression."""
        try:
            return compile_expression(source)
        except ExpressionError as error:
            raise DefinitionError(f"{where}: {error}") from None

    def schema(self, schema: dict[str, Any] | None, where: str) -> Schema | None:
        """A JSON Schema; None where it allows everything."""
        try:
            return compile_schema(schema)
        except SchemaError as error:
            raise DefinitionError(f"{where}: {error}") from None
