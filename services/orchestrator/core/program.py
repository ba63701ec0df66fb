"""Owns compiled definitions: templates and schemas compiled once, ready to be entered."""

from penstock.workflow.definition import Definition


class Program:
    """A definition, compiled: immutable, shared by all its runs."""

    name: str
    version: str


def compile_definition(definition: Definition, version: str) -> Program:
    """Raises DefinitionError (a ValueError naming path and fault) when a template or schema does not compile."""
    raise NotImplementedError
