"""Owns the budget of an engine's KV cache: what is reserved for whom, so that nobody has to be put out of the batch.

A request needs room for its prompt and its answer at its end, in whole blocks of the cache. How many tokens a cache
holds is its bytes over roofline's `kv_bytes_per_token`, which the engine says (`kv_tokens_max`).
"""

from typing import Final

BLOCK_TOKENS: Final = 16
"""The cache is given out in blocks of this many tokens (vLLM's default)."""
GROWTH: Final = 1.5
"""An answer that outgrows its reservation gets this many times as much, up to its bound."""


class KvBudget:
    """Tokens of one engine's cache. `tokens_max` is None where nobody knows: then everything fits."""

    def __init__(self, tokens_max: int | None = None) -> None:
        self.tokens_max = tokens_max
        self.reserved = 0

    def fits(self, tokens: int) -> bool:
        """Whether a request of `tokens` may begin. One that is larger than the whole budget begins alone."""
        if self.tokens_max is None or self.reserved == 0:
            return True
        return self.reserved + in_blocks(tokens) <= self.tokens_max

    @property
    def free(self) -> int | None:
        """Tokens that nothing is reserved for; 0 also where answers have outgrown the whole."""
        return None if self.tokens_max is None else max(0, self.tokens_max - self.reserved)


class Reservation:
    """The tokens of one request, from its beginning to its end. It has to fit: asked before, by `fits`."""

    __slots__ = ("_bound", "_budget", "_prompt", "tokens")

    def __init__(self, budget: KvBudget, prompt: int, expected: int, max_tokens: int) -> None:
        self._budget = budget
        self._prompt = prompt
        self._bound = in_blocks(prompt + max(expected, max_tokens))
        self.tokens = in_blocks(prompt + expected)
        budget.reserved += self.tokens

    def grown(self, output: int) -> None:
        """The answer has `output` tokens by now: past what is reserved, more is.

        Running answers cannot be held back, so this may take the budget below nothing: then nobody else begins.
        """
        needed = self._prompt + output
        if self.tokens == 0 or needed <= self.tokens:
            return
        wanted = min(self._bound, max(in_blocks(needed), in_blocks(self._prompt + int(output * GROWTH))))
        if wanted > self.tokens:
            self._budget.reserved += wanted - self.tokens
            self.tokens = wanted

    def release(self) -> None:
        """Its end; more than once changes nothing."""
        self._budget.reserved -= self.tokens
        self.tokens = 0


def in_blocks(tokens: int) -> int:
    """What a request of `tokens` takes up."""
    return -(-tokens // BLOCK_TOKENS) * BLOCK_TOKENS
