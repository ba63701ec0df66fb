"""Owns what the door knows of workflows: names, newest versions and compiled input schemas, out of its own table."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

from penstock.contracts.messages import WorkflowAliased
from penstock.workflow.aliases import versions_of
from penstock.workflow.schemas import Schema, SchemaError, compile_schema
from services.gateway.read_models.reader import Reader

COMPILED_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class Known:
    """A published version."""

    name: str
    version: str
    schema: Schema | None


class Definitions:
    """Looks in the table, so that every instance knows what any of them has read; compiles a schema once."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._compiled: OrderedDict[tuple[str, str], Known] = OrderedDict()

    async def find(self, workflow: str) -> list[Known]:
        """The versions that `name`, `name@version` or `name@alias` stands for: several where an alias has canaries.

        Empty where there is none; the orchestrator chooses one of several, by the run.
        """
        name, _, version = workflow.partition("@")
        known = await self._version(name, version)
        if known is not None:
            return [known]
        row = await self._reader.alias(name, version) if version else None
        if row is None:
            return []
        found = [await self._version(name, each) for each in versions_of(WorkflowAliased.model_validate(row["body"]))]
        return [each for each in found if each is not None]

    async def _version(self, name: str, version: str) -> Known | None:
        if version and (name, version) in self._compiled:
            return self._compiled[name, version]
        row = await self._reader.definition(name, version or None)
        if row is None:
            return None
        known = self._compiled.get((name, row["version"]))
        return known if known is not None else self._compile(row)

    async def names(self) -> list[str]:
        """The workflows there are."""
        return await self._reader.names()

    def _compile(self, row: dict[str, Any]) -> Known:
        definition = row["body"]["definition"]
        try:
            schema = compile_schema(definition.get("input") or None)
        except SchemaError:
            schema = None  # published past this door; the orchestrator refuses its runs and says why
        known = Known(row["name"], row["version"], schema)
        self._compiled[known.name, known.version] = known
        while len(self._compiled) > COMPILED_MAX:
            self._compiled.popitem(last=False)
        return known
