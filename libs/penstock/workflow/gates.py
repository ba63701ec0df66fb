"""Owns the steps that ask nobody: the gate that must hold."""

from penstock.workflow.parts import Expression, Identifier, Part, Template


class Gate(Part):
    """A condition that must hold, or the block around it fails with `check_failed`. The output is true.

    `message` is what the failure says; left out, it names the expression.
    """

    id: Identifier
    check: Expression
    message: Template = ""
