"""Owns which regular expressions can bind an answer: those of linear time, as engines' grammars have them."""

from functools import lru_cache
from typing import Final

import jsonschema_rs

KEPT_MAX: Final = 256
BYTES_MAX: Final = 1 << 20
"""What a compiled one may take: `(a{1000}){1000}` is refused, not compiled."""


class RegexRefusedError(ValueError):
    """It cannot be used; the message says why."""


def check_regex(pattern: str) -> None:
    """Raises RegexRefusedError for one that does not compile: no look-around, no references, not too large."""
    _compiled(pattern)


def matches(pattern: str, text: str) -> bool:
    """Whether the text is one of the pattern's from its first to its last character. Raises RegexRefusedError."""
    return _compiled(pattern).is_valid(text)


@lru_cache(maxsize=KEPT_MAX)
def _compiled(pattern: str) -> jsonschema_rs.Validator:
    """The engine is Rust's `regex`: time in proportion to the text, whatever the pattern."""
    options = jsonschema_rs.RegexOptions(size_limit=BYTES_MAX, dfa_size_limit=BYTES_MAX)
    try:
        # By itself first: `a)|(b` would only compile between our own brackets.
        jsonschema_rs.validator_for({"pattern": pattern}, offline=True, pattern_options=options)
        whole = {"type": "string", "pattern": f"^(?:{pattern})$"}
        return jsonschema_rs.validator_for(whole, offline=True, pattern_options=options)
    except (jsonschema_rs.ValidationError, ValueError) as error:
        text = "it is no regular expression of the linear-time kind, or too large"
        raise RegexRefusedError(f"the regex {pattern[:200]} cannot be used: {text}") from error
