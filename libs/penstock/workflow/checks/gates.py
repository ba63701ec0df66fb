"""Owns the checks of the steps that ask nobody."""

from typing import Any, Final

from penstock.workflow.checks.checker import Checker, Place
from penstock.workflow.expressions import ExpressionError
from penstock.workflow.gates import Gate
from penstock.workflow.shapes import Shape

_NO_SCOPE: Final[dict[str, Any]] = {}


def check_gate(checker: Checker, block: Gate, place: Place) -> Shape:
    """What must hold is an expression, what is said where it does not a template."""
    at = (*place.path, "check")
    compiled = checker.expression(block.check, at, place.scope)
    if compiled is not None and not compiled.references:
        # A constant `false` is how a case refuses what it stands for; one that cannot be evaluated is a mistake.
        try:
            compiled(_NO_SCOPE.__getitem__)
        except ExpressionError as error:
            checker.add(at, str(error))
    checker.text(block.message, (*place.path, "message"), place.scope)
    return {"type": "boolean"}
