"""Owns what templates and expressions may use of MiniJinja: its operators, filters, tests and three functions.

No value's methods can be called, because the values are the run's own: `input.update(…)` would change its state.
"""

import re
from collections.abc import Callable, Iterator
from typing import Final

FUNCTIONS: Final = frozenset({"range", "dict", "namespace"})

_INFIX: Final = frozenset({"and", "or", "in", "if", "else"})
_BEFORE_NOT: Final = frozenset({"", "{{", "(", "[", ",", ":", "=", "and", "or", "if", "elif", "else"})
_TOKEN: Final = re.compile(r"""%}|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[A-Za-z_]\w*|\S""", re.DOTALL)
_OPEN: Final = re.compile(r"\{\{|\{%|\{#")
_RAW: Final = re.compile(r"[-+]?\s*raw\s*[-+]?%}.*?\{%[-+]?\s*endraw\s*[-+]?%}", re.DOTALL)
_NAME: Final = re.compile(r"[A-Za-z_]\w*")


def forbidden(source: str, knows: Callable[[str], bool], *, bare: bool) -> str | None:
    """Why a template (or a `bare` expression) is refused; None: it is not. `source` is known to parse.

    MiniJinja reserves next to no words: `{% set if = input.update %}{{ if(…) }}` would be a call. So a parenthesis
    is let through only where what stands before it can be no variable.
    """
    third = second = first = ""
    for token in (*_tokens(source, bare=bare), ""):
        if token == "(" and _calls(third, second, first):
            name = f".{first}" if second == "." else first
            functions = ", ".join(sorted(FUNCTIONS))
            return f"`{name}(…)` cannot be called; use a filter (`value | upper`) or one of the functions {functions}"
        if first in FUNCTIONS and second != "." and token != "(":
            return f"`{first}` is a function; nothing else can have its name"
        if _NAME.fullmatch(token):
            if first == "|" and not knows(f"none|{token}"):
                return f"there is no filter `{token}`"
            if _is_test(second, first, token) and not knows(f"none is {token}"):
                return f"there is no test `{token}`"
        third, second, first = second, first, token
    return None


def _is_test(second: str, first: str, token: str) -> bool:
    return token != "not" and (first == "is" or (second == "is" and first == "not"))


def _calls(third: str, second: str, called: str) -> bool:
    """Whether a parenthesis after these tokens may call what is no filter, no test and none of FUNCTIONS."""
    if _ends_operand(called) and not _NAME.fullmatch(called):
        return True
    if not _NAME.fullmatch(called):
        return False
    if second == "|" or (second == "filter" and third == "{%") or _is_test(third, second, called):
        return False
    if called in _INFIX and (_ends_operand(second) or (second == "not" and _ends_operand(third))):
        return False
    if called in ("if", "elif") and second == "{%":
        return False
    if called == "not" and second in _BEFORE_NOT:
        return False
    return second == "." or called not in FUNCTIONS


def _ends_operand(token: str) -> bool:
    """Whether an expression can end with this token, so that an operator follows."""
    if token in (")", "]", "}") or token[:1] in ("'", '"') or token[-1:].isdigit():
        return True
    return _NAME.fullmatch(token) is not None and token not in _INFIX and token not in ("not", "is", "elif")


def _tokens(source: str, *, bare: bool) -> Iterator[str]:
    """The tokens that MiniJinja takes for code; all of a bare expression, what is in tags of a template."""
    if bare:
        yield from _TOKEN.findall(source)
        return
    opened = _OPEN.search(source)
    while opened is not None:
        position = opened.end()
        match opened.group():
            case "{#":
                end = source.find("#}", position)
                position = len(source) if end < 0 else end
            case "{%" if (raw := _RAW.match(source, position)) is not None:
                position = raw.end()
            case opening:
                yield opening
                depth = 0
                for match in _TOKEN.finditer(source, position):
                    token, position = match.group(), match.end()
                    # Inside brackets MiniJinja takes no `}}` for the end of the tag: `{{ {'a': {}} }}`.
                    if depth == 0 and token in ("}", "%}"):
                        break
                    depth += (token in ("(", "[", "{")) - (token in (")", "]", "}", "%}"))
                    yield token
                yield ""
        opened = _OPEN.search(source, position)
