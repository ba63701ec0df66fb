"""Owns what is known about a value in an expression, and the tree that an expression is read as."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from jinja2 import Environment, TemplateError, nodes

from penstock.workflow.shapes import Shape

SILENT: Final = "silent"
"""Why `x if condition` may be absent: MiniJinja prints nothing for it, and most operators take it for false."""
CONDITIONS_MAX: Final = 64
"""How many times one template may say `and` and `or`; the time to work that out grows with the square of it."""
_LOGICAL: Final = re.compile(r"\b(?:and|or)\b")
_ENVIRONMENT: Final = Environment(autoescape=False)


@dataclass(frozen=True, slots=True)
class Known:
    """What a value can be. `absent` says why it may not be there at all; `hint` what can be done about that."""

    shape: Shape
    absent: str = ""
    hint: str = ""


Names = dict[str, Known]
"""What is known about each name of a scope."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why an expression can fail; `line` counts from 1 in its source."""

    message: str
    hint: str = ""
    line: int = 1


@lru_cache(maxsize=512)
def parsed(source: str) -> nodes.Template | None:
    """A template's tree; None where it cannot be read so, and nothing is known about it.

    MiniJinja's grammar is Jinja's: the tests hold the two against each other.
    """
    try:
        tree = _ENVIRONMENT.parse(source)
        words = len(_LOGICAL.findall(source))
        if words > CONDITIONS_MAX and sum(1 for _ in tree.find_all((nodes.And, nodes.Or))) > CONDITIONS_MAX:
            return None
        return tree
    except (TemplateError, RecursionError, ValueError):
        return None


def expression(source: str) -> nodes.Expr | None:
    """The tree of a bare expression."""
    tree = parsed("{{(" + source + ")}}")
    if tree is None or len(tree.body) != 1 or not isinstance(tree.body[0], nodes.Output):
        return None
    printed = tree.body[0].nodes
    return printed[0] if len(printed) == 1 and not isinstance(printed[0], nodes.TemplateData) else None


def path_of(node: nodes.Node) -> tuple[str | int, ...] | None:
    """`('read', 'pages', 0)` for `read.pages[0]`; None for what is no path."""
    match node:
        case nodes.Name():
            return (node.name,)
        case nodes.Getattr():
            before = path_of(node.node)
            return None if before is None else (*before, node.attr)
        case nodes.Getitem(arg=nodes.Const(value=str() | int() as key)) if not isinstance(key, bool):
            before = path_of(node.node)
            return None if before is None else (*before, key)
        case _:
            return None


def spelled(node: nodes.Node) -> str:
    """How a value is called in a fault: its path, else what it is."""
    path = path_of(node)
    match node:
        case _ if path is not None:
            first, *rest = path
            return str(first) + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in rest)
        case nodes.Const():
            return repr(node.value) if node.value is not None else "none"
        case nodes.Filter(node=nodes.Expr() as inner):
            return f"{spelled(inner)} | {node.name}"
        case nodes.Getattr():
            return f"{spelled(node.node)}.{node.attr}"
        case _:
            return "…"
