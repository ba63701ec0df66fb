"""Owns the engine that runs in this process's own care: vLLM's async engine, with its processes as children."""

import asyncio
import contextlib
from collections.abc import Callable, MutableMapping
from typing import Any, Final

from penstock.contracts.messages import InferenceRequested, NextMove
from services.inference.core.buckets import estimated_prompt_tokens
from services.inference.core.failures import timed_out
from services.inference.core.suspects import Suspects, fingerprint
from services.inference.engines import vllm_library, vllm_prompts
from services.inference.engines.company import Company
from services.inference.engines.protocol import EngineFailedError, EngineLoad, Generation, ModelLimits, OnDelta
from services.inference.engines.vllm_calls import Asked, embedded, generated
from services.inference.engines.vllm_library import Built, Outputs, Sampled
from services.inference.engines.vllm_life import EngineLife
from services.inference.engines.vllm_options import VllmOptions
from services.inference.engines.vllm_prompts import refusal

WARM_UP_TOKENS: Final = 256
COUNTED_MAX: Final = 4096
"""Prompts whose tokens were counted and that have not been asked yet."""


class VllmEngine:
    """One model. Calls run side by side in the engine's batch, a suspect of an engine's death by itself."""

    simulated: Final = False

    def __init__(
        self,
        options: VllmOptions,
        *,
        environment: MutableMapping[str, str],
        suspects: Suspects | None = None,
        name: str = "vllm",
    ) -> None:
        """`environment` is the process's own: vLLM and its processes read their variables there."""
        self.name: Final = name
        self._options: Final = options
        self._suspects: Final = Suspects() if suspects is None else suspects
        self._company: Final = Company()
        self._life: Final = EngineLife(options, self._suspects, environment, self._warm_up)
        self._counted: Final[dict[Any, list[int]]] = {}
        self._tool_parser: Callable[[Any, Any], Any] | None = None
        self._closed = False

    # What is known without asking.

    def limits(self, model: str) -> ModelLimits:  # noqa: ARG002  # an engine has one model, whatever it is called
        """What the model takes; unknown until the engine has been built."""
        incarnation = self._life.now
        if incarnation is None:
            unknown: dict[str, Any] = dict.fromkeys(("images", "embeddings", "tools"))
            return ModelLimits(**unknown, adapters=frozenset(self._options.adapters), tokens_exact=False)
        built = incarnation.built
        return ModelLimits(
            context_tokens_max=built.context_tokens_max,
            images=built.images,
            embeddings=built.pooling,
            tools=not built.pooling,
            adapters=frozenset(built.adapters),
            tokens_exact=not built.images,  # what an image comes to is known when it is rendered
        )

    def load(self) -> EngineLoad:
        """As the engine's last step said."""
        gauges, incarnation = self._life.gauges, self._life.now
        kv_tokens_max = None if incarnation is None else incarnation.built.kv_tokens_max
        return EngineLoad(
            running=gauges.running,
            waiting=gauges.waiting,
            kv_tokens_used=None if kv_tokens_max is None else round(gauges.kv_share * kv_tokens_max),
            kv_tokens_max=kv_tokens_max,
            preemptions=gauges.preemptions,
            prefix_tokens_asked=gauges.prefix_tokens_asked,
            prefix_tokens_hit=gauges.prefix_tokens_hit,
        )

    def prompt_tokens(self, request: InferenceRequested) -> int:
        """Counted, images left out; kept, so that asking does not count again. Estimated while there is no engine."""
        incarnation = self._life.now
        if incarnation is None:
            return estimated_prompt_tokens(request)
        if request.inputs is not None:
            return sum(len(incarnation.built.tokenizer.encode(text)) for text in request.inputs)
        try:
            ids = vllm_prompts.token_ids(incarnation.built, request)
        except EngineFailedError:
            return estimated_prompt_tokens(request)  # it will be refused when it is asked
        if len(self._counted) >= COUNTED_MAX:
            self._counted.pop(next(iter(self._counted)))
        self._counted[request.request_id] = ids
        return len(ids)

    # Life.

    async def start(self) -> None:
        """Loads the model and answers a first request. Raises EngineFailedError."""
        await self._life.start()

    async def probe(self) -> str:
        """Which engine runs. Raises EngineFailedError where none does."""
        incarnation = self._life.current()
        built = incarnation.built
        return f"vLLM engine {incarnation.number} runs, {built.context_tokens_max} tokens of context"

    def processes(self) -> list[int]:
        """The ids of the engine's processes."""
        incarnation = self._life.now
        return [] if incarnation is None else incarnation.built.processes()

    async def close(self) -> None:
        """Lets calls end, for as long as the options say, and ends the engine."""
        self._closed = True
        incarnation = self._life.now
        if incarnation is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._options.drain_seconds):
                    await incarnation.empty.wait()
        await self._life.close()

    async def _warm_up(self, built: Built) -> None:
        """A first request, and a first guided one: what is compiled or loaded at first use is not a caller's wait.

        Long prompts first. On a CPU with AMX the large products ask the kernel for leave to use it; a short prompt uses
        it without having asked, and that ends the engine's process.
        """
        if self._options.tool_parser is not None:
            self._tool_parser = await asyncio.to_thread(vllm_library.tool_parser, self._options.tool_parser)
        tokens = min(WARM_UP_TOKENS, built.context_tokens_max - 2)
        ids = (list(built.tokenizer.encode("water")) * tokens)[:tokens]
        if built.pooling:
            await vllm_library.embedded(built, ids, "", "warm-up", 0)
            return
        for bound in (None, {"choice": ["water", "wine"]}):
            parameters = Sampled({"max_tokens": 2, "temperature": 0.0, "logprobs": 1}, bound).parameters()
            prompt = vllm_library.tokens_input(ids, "warm-up")
            outputs = await Outputs.of(built, prompt, parameters, "warm-up")
            while not (await outputs.next()).finished:
                pass

    # Asking.

    async def generate(
        self, request: InferenceRequested, timeout_seconds: float, on_delta: OnDelta | None = None
    ) -> Generation:
        """The model's answer. Raises EngineFailedError; code `poison_request` for what killed an engine twice."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        ids = self._counted.pop(request.request_id, None)
        if self._closed:
            raise refusal("engine_unreachable", "the engine is being closed", NextMove.RETRY_ELSEWHERE)
        name = fingerprint(request) if self._suspects else None
        self._refuse_guilty(name)
        alone = name is not None and self._suspects.must_be_alone(name)
        try:
            async with asyncio.timeout_at(began + timeout_seconds) as waiting, self._company.place(alone=alone):
                waiting.reschedule(None)  # in the engine a call keeps its own deadline, and ends in order
                asked = Asked(
                    request,
                    self._life.current(),
                    self._life.note_death,
                    began,
                    began + timeout_seconds,
                    ids,
                    self._tool_parser,
                    on_delta,
                )
                generation = await (embedded(asked) if request.operation == "embedding" else generated(asked))
        except TimeoutError as error:
            raise EngineFailedError(timed_out(timeout_seconds)) from error
        except EngineFailedError:
            self._refuse_guilty(name)
            raise
        if name is not None:
            self._suspects.answered(name)
        return generation

    def _refuse_guilty(self, name: str | None) -> None:
        if name is not None and self._suspects.guilty(name):
            message = "this request was alone in the engine when it died, and in it when it had died before"
            raise refusal("poison_request", message, NextMove.GIVE_UP)
