"""Owns compiled definitions: templates and schemas compiled once, ready to be entered by all runs."""

from collections.abc import Mapping
from dataclasses import dataclass

from penstock.contracts.messages import Budget
from penstock.workflow.definition import Definition
from penstock.workflow.schemas import Schema
from penstock.workflow.tiers import burst_of
from services.orchestrator.core.blocks import BLOCKS
from services.orchestrator.core.compiler import Compiler, Node, as_budget
from services.orchestrator.core.undo import UndoNode


@dataclass(frozen=True, slots=True)
class Program:
    """A definition, compiled: immutable, shared by all its runs."""

    name: str
    version: str
    root: Node
    input_schema: Schema | None
    deadline_ms: int
    steps_max: int
    budget: Budget | None
    undos: Mapping[str, UndoNode]
    """By the ids of the steps that they undo."""
    undo_ms: int
    bursts: bool = False
    """Whether a tier lets calls burst."""


def compile_definition(definition: Definition, version: str) -> Program:
    """Raises DefinitionError (a ValueError naming path and fault) when a template or schema does not compile."""
    compiler = Compiler(definition, BLOCKS)
    return Program(
        name=definition.name,
        version=version,
        root=compiler.block(definition.do),
        input_schema=compiler.schema(definition.input, "input"),
        deadline_ms=max(1, round(definition.deadline_seconds * 1000)),
        steps_max=definition.steps_max,
        budget=None if definition.budget is None else as_budget(definition.budget),
        undos=compiler.undos,
        undo_ms=max(1, round(definition.undo_seconds * 1000)),
        bursts=any(burst_of(tier) is not None for tier in definition.tiers.values()),
    )
