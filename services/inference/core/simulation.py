"""Owns the batch of the engine that is none: who is in it, whose keys and values fit, whose prefix is kept.

As vLLM's scheduler does it: requests enter in order while their prompts fit into what memory is left beside the
weights; where the batch grows out of it, the newest is put out, and computed again later. The prefix cache keeps blocks
of 16 tokens by what stands before them, apart for each tenant, the least recently used going first; what a running
request holds is counted as if nobody shared it, which errs to the safe side.

A step is what `roofline.step` makes of all that run. But those that write their answers all gain one token a step, so
that a step costs nothing for each of them: it is known beforehand which step is somebody's last.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final

from services.inference.core.roofline import PREFILL_TOKENS_MAX, Roofline

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
    """One request in the engine. It is read, then written; where it was put out, both go on from where it stood."""

    prompt_left: int
    output: int
    blocks: tuple[int, ...] = ()
    cached_tokens: int = 0
    """Of its prompt, what the prefix cache had."""
    held: int = 0
    """Tokens whose keys and values it held when it began to write, or holds while it is read."""
    written: int = 0
    """Tokens of its answer from before it was put out; all of them at its end."""
    writes_since: int | None = None
    """The step that gave it a token first; None where it does not write."""


@dataclass(slots=True)
class Batch:
    """Everything that is in the engine. Times are not its business."""

    roofline: Roofline
    batch_max: int
    kv_max: int
    running: dict[Job, None] = field(default_factory=dict)
    """In the order in which they were let in."""
    waiting: deque[Job] = field(default_factory=deque)
    kv_used: int = 0
    preemptions: int = 0
    prefix_tokens_asked: int = 0
    prefix_tokens_hit: int = 0
    begun: list[Job] = field(default_factory=list)
    """Those that began to write. Whoever reads it empties it."""
    ended: list[Job] = field(default_factory=list)
    """Those that have written all, and left. Whoever reads it empties it."""
    _steps: int = 0
    _reading: list[Job] = field(default_factory=list)
    _writing: int = 0
    _kv_writing: int = 0
    """Tokens held by those that write."""
    _last: dict[int, list[Job]] = field(default_factory=dict)
    """Those that write, by the step that is their last."""
    _prefixes: OrderedDict[int, None] = field(default_factory=OrderedDict)

    def add(self, job: Job) -> None:
        """A request comes."""
        self.waiting.append(job)

    def remove(self, job: Job) -> None:
        """A request goes before its end."""
        if job in self.running:
            del self.running[job]
            self._stop(job)
        elif job in self.waiting:
            self.waiting.remove(job)

    def given(self, job: Job) -> int:
        """Its output tokens so far."""
        return job.written if job.writes_since is None else job.written + self._steps - job.writes_since + 1

    def step(self) -> float:
        """One step of all that run; the seconds that it takes."""
        if self.waiting:
            self._admit()
        while len(self.running) > 1 and self.kv_used + len(self.running) > self.kv_max:
            self._put_out(next(reversed(self.running)))
        self._steps += 1
        tokens = self._writing
        self.kv_used += tokens
        self._kv_writing += tokens
        if self._reading:
            tokens += self._read()
        seconds = self.roofline.step_seconds(tokens, self._kv_writing)
        for job in self._last.get(self._steps, ())[:]:
            del self.running[job]
            self._stop(job)
            self._keep(job)
            self.ended.append(job)
        return seconds

    def _read(self) -> int:
        """Prompts, as much of them as one step takes. The step that ends a prompt gives the first token too."""
        budget = PREFILL_TOKENS_MAX
        still: list[Job] = []
        for job in self._reading:
            chunk = min(job.prompt_left, budget)
            budget -= chunk
            job.prompt_left -= chunk
            job.held += chunk
            if job.prompt_left > 0:
                still.append(job)
                continue
            job.writes_since = self._steps
            self._last.setdefault(self._steps + job.output - job.written - 1, []).append(job)
            self._writing += 1
            self._kv_writing += job.held
            self.begun.append(job)
        self._reading = still
        self.kv_used += PREFILL_TOKENS_MAX - budget
        return PREFILL_TOKENS_MAX - budget

    def _stop(self, job: Job) -> None:
        """It neither reads nor writes any more, and holds nothing; what it has written stays written."""
        held, since = job.held, job.writes_since
        if since is None:
            self._reading.remove(job)
        else:
            last = since + job.output - job.written - 1
            self._last[last].remove(job)
            if not self._last[last]:
                del self._last[last]
            held += self._steps - since
            self._writing -= 1
            self._kv_writing -= held
            job.written = self.given(job)
            job.writes_since = None
        self.kv_used -= held
        job.held = 0
        job.prompt_left += held

    def _keep(self, job: Job) -> None:
        """The blocks of a request that is done stay, until others need the room."""
        for block in job.blocks:
            self._prefixes[block] = None
            self._prefixes.move_to_end(block)
        while len(self._prefixes) * BLOCK_TOKENS > self.kv_max:
            self._prefixes.popitem(last=False)

    def _admit(self) -> None:
        promised = self.kv_used + sum(job.prompt_left for job in self._reading)
        while self.waiting and len(self.running) < self.batch_max:
            job = self.waiting[0]
            promised += job.prompt_left
            if self.running and promised + len(self.running) >= self.kv_max:
                return
            self.waiting.popleft()
            self._look_up(job)
            self.running[job] = None
            self._reading.append(job)
            self.kv_used += job.held

    def _look_up(self, job: Job) -> None:
        """What the cache has of a prompt; its last token is always computed, because the first answer comes from it."""
        if job.written:
            return
        self.prefix_tokens_asked += job.prompt_left
        known = 0
        for block in job.blocks:
            if block not in self._prefixes:
                break
            self._prefixes.move_to_end(block)
            known += BLOCK_TOKENS
        known = min(known, job.prompt_left - 1)
        job.prompt_left -= known
        job.held = job.cached_tokens = known
        self.prefix_tokens_hit += known

    def _put_out(self, job: Job) -> None:
        """Its keys and values are dropped; prompt and answer so far are computed again once there is room."""
        self.preemptions += 1
        del self.running[job]
        self._stop(job)
        self.waiting.appendleft(job)


def blocks_of(tenant: str, text: str) -> tuple[int, ...]:
    """The whole blocks of a text, each by all that stands before it; no two tenants have one in common."""
    made: list[int] = []
    before = hash(tenant)
    for start in range(0, len(text) - BLOCK_CHARACTERS + 1, BLOCK_CHARACTERS):
        before = hash((before, text[start : start + BLOCK_CHARACTERS]))
        made.append(before)
    return tuple(made)
