"""Owns the batch of the engine that is none: who is in it, whose keys and values fit, whose prefix is kept.

As vLLM's scheduler does it: requests enter in order while their prompts fit into what memory is left beside the
weights; where the batch grows out of it, the newest is put out, and computed again later. The prefix cache keeps blocks
of 16 tokens by what stands before them, apart for each tenant, the least recently used going first; what a running
request holds is counted as if nobody shared it, which errs to the safe side.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final

from services.inference.core.roofline import Roofline, Sequence, step

MEMORY_SHARE: Final = 0.9
"""What an engine takes of an accelerator's memory: vLLM's default of `gpu_memory_utilization`."""
BLOCK_TOKENS: Final = 16
BLOCK_CHARACTERS: Final = 4 * BLOCK_TOKENS


def kv_tokens_max(roofline: Roofline) -> int:
    """Tokens whose keys and values fit beside the weights; 0 where not even the weights do."""
    free = roofline.hardware.memory_bytes * MEMORY_SHARE - roofline.model.weights_bytes
    return max(0, int(free // roofline.model.kv_bytes_per_token))


@dataclass(slots=True, eq=False)
class Job:
    """One request in the engine."""

    sequence: Sequence
    output: int
    blocks: tuple[int, ...] = ()
    cached_tokens: int = 0
    """Of its prompt, what the prefix cache had."""
    watched: bool = True
    """Whether somebody wants to know of its next token: of the first always, of the others where the text streams."""

    @property
    def given(self) -> int:
        """Output tokens so far."""
        return max(0, self.output - self.sequence.output_left)


@dataclass(slots=True)
class Batch:
    """Everything that is in the engine. Times are not its business."""

    roofline: Roofline
    batch_max: int
    kv_max: int
    running: list[Job] = field(default_factory=list)
    waiting: deque[Job] = field(default_factory=deque)
    kv_used: int = 0
    preemptions: int = 0
    prefix_tokens_asked: int = 0
    prefix_tokens_hit: int = 0
    _prefixes: OrderedDict[int, None] = field(default_factory=OrderedDict)

    def add(self, job: Job) -> None:
        """A request comes."""
        self.waiting.append(job)

    def remove(self, job: Job) -> None:
        """A request goes, done or not."""
        if job in self.running:
            self.running.remove(job)
            self.kv_used -= job.sequence.cached
        elif job in self.waiting:
            self.waiting.remove(job)

    def step(self) -> float:
        """One step of all that run; the seconds that it takes. Finished ones are still in it: whoever calls takes them
        out."""
        self._admit()
        while len(self.running) > 1 and self.kv_used + len(self.running) > self.kv_max:
            self._put_out(self.running.pop())
        seconds = step([job.sequence for job in self.running], self.roofline)
        self.kv_used = sum(job.sequence.cached for job in self.running)
        return seconds

    def keep(self, job: Job) -> None:
        """The blocks of a request that is done stay, until others need the room."""
        for block in job.blocks:
            self._prefixes[block] = None
            self._prefixes.move_to_end(block)
        while len(self._prefixes) * BLOCK_TOKENS > self.kv_max:
            self._prefixes.popitem(last=False)

    def _admit(self) -> None:
        if not self.waiting:
            return
        promised = sum(job.sequence.cached + job.sequence.prompt_left for job in self.running)
        while self.waiting and len(self.running) < self.batch_max:
            job = self.waiting[0]
            promised += job.sequence.prompt_left
            if self.running and promised + len(self.running) >= self.kv_max:
                return
            self.waiting.popleft()
            self._look_up(job)
            self.running.append(job)
            self.kv_used += job.sequence.cached

    def _look_up(self, job: Job) -> None:
        """What the cache has of a prompt; its last token is always computed, because the first answer comes from it."""
        sequence = job.sequence
        if sequence.started or sequence.cached:
            return
        self.prefix_tokens_asked += sequence.prompt_left
        known = 0
        for block in job.blocks:
            if block not in self._prefixes:
                break
            self._prefixes.move_to_end(block)
            known += BLOCK_TOKENS
        known = min(known, sequence.prompt_left - 1)
        sequence.prompt_left -= known
        sequence.cached = job.cached_tokens = known
        self.prefix_tokens_hit += known

    def _put_out(self, job: Job) -> None:
        """Its keys and values are dropped; prompt and answer so far are computed again once there is room."""
        self.preemptions += 1
        self.kv_used -= job.sequence.cached
        job.sequence.prompt_left += job.sequence.cached
        job.sequence.cached = 0
        self.waiting.appendleft(job)


def blocks_of(tenant: str, text: str) -> tuple[int, ...]:
    """The whole blocks of a text, each by all that stands before it; no two tenants have one in common."""
    made: list[int] = []
    before = hash(tenant)
    for start in range(0, len(text) - BLOCK_CHARACTERS + 1, BLOCK_CHARACTERS):
        before = hash((before, text[start : start + BLOCK_CHARACTERS]))
        made.append(before)
    return tuple(made)
