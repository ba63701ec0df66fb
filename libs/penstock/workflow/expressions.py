"""Owns the one language of expressions and prompts: MiniJinja, strict, with fuel, compiled once.

What the language may do is less than MiniJinja could: see penstock.workflow.allowed.
"""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import orjson
from minijinja import Environment, TemplateError

from penstock.workflow.allowed import FUNCTIONS, forbidden
from penstock.workflow.lookups import ExpressionError as ExpressionError  # what evaluating raises
from penstock.workflow.lookups import Scope as Scope
from penstock.workflow.lookups import context_in, head, opened_in, path_in, shortened

FUEL: Final = 100_000
"""Instructions that one rendering may take: a loop over some thousand items, milliseconds."""
TEXT_CHARACTERS_MAX: Final = 4_194_304
DEPTH_MAX: Final = 64
_CONSTANTS: Final = frozenset({"true", "false", "none", "True", "False", "None", "not", "loop", "self"})
_PATH: Final = r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*|\[[0-9]{1,9}\])*"
_PLAIN_PATH: Final = re.compile(_PATH)
_PLAIN_PIECE: Final = re.compile(r"\{\{\s*(" + _PATH + r")\s*\}\}")
_SLICE: Final = re.compile(r"\[[^\[\]{}:]*:[^\[\]{}]*\]")
_QUOTED: Final = re.compile(r"`\.?(\w+)")
_WHOLE: Final = re.compile(r"\s*\{\{(.+)\}\}\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Reference:
    """A name that an expression uses: `dotted` as far as it is known (`classify.kind`), `where` inside the value."""

    where: tuple[str | int, ...]
    dotted: str
    source: str

    @property
    def name(self) -> str:
        """The scope's name, without fields."""
        return self.dotted.split(".", 1)[0]


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled value: `evaluate` is None where it has no expression and stands for itself."""

    constant: Any
    evaluate: Callable[[Scope], Any] | None = None
    references: tuple[Reference, ...] = ()

    def __call__(self, scope: Scope) -> Any:
        """The value in a scope. Raises ExpressionError."""
        return self.constant if self.evaluate is None else self.evaluate(scope)


def compile_expression(source: str) -> Compiled:
    """A bare expression, as in `when` and `map`: what it comes to is looked at, so it is never a reference."""
    compiled = _expression(source.strip(), ())
    evaluate = compiled.evaluate
    if evaluate is None:
        return compiled

    def opened(scope: Scope) -> Any:
        value = evaluate(scope)
        return opened_in(scope, value, source) if type(value) is dict else value

    return Compiled(None, opened, compiled.references)


def compile_text(source: str) -> Compiled:
    """A template whose value is always text, as a prompt."""
    return _text(source, ())


def compile_value(value: Any) -> Compiled:
    """JSON with templates in its strings; a string that is one `{{ expression }}` stands for the value itself."""
    return _value(value, (), 0)


def _value(value: Any, where: tuple[str | int, ...], depth: int) -> Compiled:
    if depth > DEPTH_MAX:
        raise ExpressionError(f"nested deeper than {DEPTH_MAX} levels")
    if isinstance(value, str):
        return _string(value, where)
    if isinstance(value, dict):
        return _dict({key: _value(item, (*where, key), depth + 1) for key, item in value.items()}, value)
    if isinstance(value, list):
        return _list([_value(item, (*where, index), depth + 1) for index, item in enumerate(value)], value)
    return Compiled(value)


def _dict(parts: dict[str, Compiled], value: dict[str, Any]) -> Compiled:
    moving = [(key, part.evaluate) for key, part in parts.items() if part.evaluate is not None]
    if not moving:
        return Compiled(value)

    def evaluate(scope: Scope) -> Any:
        result = value.copy()
        for key, part in moving:
            result[key] = part(scope)
        return result

    return Compiled(None, evaluate, _references(parts.values()))


def _list(parts: list[Compiled], value: list[Any]) -> Compiled:
    if all(part.evaluate is None for part in parts):
        return Compiled(value)
    return Compiled(None, lambda scope: [part(scope) for part in parts], _references(parts))


def _references(parts: Iterable[Compiled]) -> tuple[Reference, ...]:
    return tuple(reference for part in parts for reference in part.references)


def _string(source: str, where: tuple[str | int, ...]) -> Compiled:
    try:
        return _compiled_string(source, where)
    except ExpressionError as error:
        error.where = where
        raise


def whole_expression(source: str) -> str | None:
    """The expression of a string that is nothing but one `{{ expression }}`; None for any other string."""
    whole = _WHOLE.fullmatch(source)
    if whole is None:
        return None
    inner = whole.group(1).removeprefix("-").removesuffix("-").strip()
    return inner if _parses("{{(" + inner + ")}}") else None


def _compiled_string(source: str, where: tuple[str | int, ...]) -> Compiled:
    whole = whole_expression(source)
    return _text(source, where) if whole is None else _expression(whole, where)


def _text(source: str, where: tuple[str | int, ...]) -> Compiled:
    if "{{" not in source and "{%" not in source and "{#" not in source:
        return Compiled(source)
    dotted = _undeclared(source, source)
    _refuse(source, bare=False)
    render = _rendering(source, dotted)
    plain = _plain_pieces(source)
    references = tuple(Reference(where, name, source) for name in dotted)
    if plain is None:
        return Compiled(None, render, references)

    def evaluate(scope: Scope) -> Any:
        pieces = []
        for piece in plain:
            if isinstance(piece, str):
                pieces.append(piece)
                continue
            value = piece(scope)
            # Text and whole numbers read the same in Python and MiniJinja; all else is rendered by the real thing.
            if type(value) is str:
                pieces.append(value)
            elif type(value) is int:
                pieces.append(str(value))
            else:
                return render(scope)
        return "".join(pieces)

    return Compiled(None, evaluate, references)


def _plain_pieces(source: str) -> list[str | Callable[[Scope], Any]] | None:
    """The template as literal text and plain paths; None where it holds anything else."""
    # MiniJinja drops one newline at the end of a template.
    split = _PLAIN_PIECE.split(source.removesuffix("\n"))
    if any(mark in literal for literal in split[::2] for mark in ("{{", "{%", "{#")):
        return None
    if any(head(path) in _CONSTANTS for path in split[1::2]):
        return None
    return [path_in(part, source) if index % 2 else part for index, part in enumerate(split) if part]


def _rendering(source: str, dotted: tuple[str, ...]) -> Callable[[Scope], str]:
    environment = _environment()
    environment.add_template("template", source)
    context_of = context_in(source, dotted)

    def render(scope: Scope) -> str:
        context = context_of(scope)
        with _Translated(source):
            text = environment.render_template("template", **context)
        if len(text) > TEXT_CHARACTERS_MAX:
            raise ExpressionError(f"`{shortened(source)}`: the text is longer than {TEXT_CHARACTERS_MAX} characters")
        return text

    return render


def _expression(source: str, where: tuple[str | int, ...]) -> Compiled:
    dotted = _undeclared("{{(" + source + ")}}", source)
    _refuse(source, bare=True)
    references = tuple(Reference(where, name, source) for name in dotted)
    if _PLAIN_PATH.fullmatch(source) and head(source) not in _CONSTANTS:
        return Compiled(None, path_in(source, source), references)
    context_of = context_in(source, dotted)
    environment = _environment()
    undefined = f"({source}) is undefined"

    def evaluate(scope: Scope) -> Any:
        context = context_of(scope)
        with _Translated(source):
            value = environment.eval_expr(source, **context)
            # The binding answers None for a result that is undefined, strict or not.
            if value is None and environment.eval_expr(undefined, **context):
                raise ExpressionError(f"`{shortened(source)}` is not defined")
        return _plain_json(value, source)

    return Compiled(None, evaluate, references)


def _plain_json(value: Any, source: str) -> Any:
    """The value as JSON knows it: what an expression computed may be a tuple, a method or not finite."""
    match value:
        case bool() | None:
            return value
        case float() if not math.isfinite(value):
            raise ExpressionError(f"`{shortened(source)}` is {value}, which is not a JSON number")
    if type(value) is str or type(value) is float:
        return value
    try:
        return orjson.loads(orjson.dumps(value))
    except TypeError as error:
        raise ExpressionError(f"`{shortened(source)}` is not a JSON value: {error}") from None


def _environment() -> Environment:
    return Environment(
        fuel=FUEL,
        undefined_behavior="strict",
        filters={"tojson": _tojson, "replace": _replace},
    )


def _tojson(value: Any, indent: int | None = None) -> str:
    # MiniJinja's own escapes < and > for HTML; a model should read what the value holds.
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 if indent else None).decode()


def _replace(text: str, old: str, new: str) -> str:
    # MiniJinja's own has no limit: two long inputs make a text of gigabytes.
    text, old, new = str(text), str(old), str(new)
    if len(text) + text.count(old) * len(new) > TEXT_CHARACTERS_MAX:
        raise ExpressionError(f"replace: the text is longer than {TEXT_CHARACTERS_MAX} characters")
    return text.replace(old, new)


class _Translated:
    """Turns what MiniJinja raises into an ExpressionError that names the source."""

    __slots__ = ("source",)

    def __init__(self, source: str) -> None:
        self.source = source

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None or isinstance(error, ExpressionError):
            return
        if isinstance(error, TemplateError):
            told = ExpressionError(f"`{shortened(self.source)}`: {_said(error)}")
            told.line = error.line or 1
            raise told from None
        # A panic inside the Rust library is a BaseException of a class that cannot be imported.
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise ExpressionError(f"`{shortened(self.source)}`: {error}") from error


def _said(error: TemplateError) -> str:
    if error.kind == "OutOfFuel":
        return f"it took more than {FUEL} instructions"
    return error.detail or error.message


def _parses(template: str) -> bool:
    try:
        _COMPILER.undeclared_variables_in_str(template)
    except TemplateError:
        return False
    return True


def _undeclared(template: str, source: str) -> tuple[str, ...]:
    """The names that a template takes from its scope, dotted as far as they are known, in a fixed order."""
    with _Translated(source):
        found = _COMPILER.undeclared_variables_in_str(template, nested=True)
        if _SLICE.search(template):
            # MiniJinja sees the bounds of a slice and not what it slices: that shows where an index stands instead.
            found |= _COMPILER.undeclared_variables_in_str(_SLICE.sub("[0]", template), nested=True)
    return tuple(sorted(name for name in found if name not in FUNCTIONS))


def _refuse(source: str, *, bare: bool) -> None:
    reason = forbidden(source, _knows, bare=bare)
    if reason is None:
        return
    refused = ExpressionError(f"`{shortened(source)}`: {reason}")
    name = _QUOTED.search(reason)
    refused.line = source.count("\n", 0, max(0, source.find(name.group(1)))) + 1 if name is not None else 1
    raise refused


def _knows(call: str) -> bool:
    """Whether MiniJinja knows the filter or the test of `none | name` or `none is name`."""
    try:
        _COMPILER.eval_expr(call)
    except TemplateError as error:
        return error.kind not in ("UnknownFilter", "UnknownTest")
    except TypeError:
        return True  # one of ours, and it wants arguments
    return True


_COMPILER: Final = _environment()
