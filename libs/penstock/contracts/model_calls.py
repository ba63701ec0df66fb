"""Owns the bodies of model calls: what may be asked of a model, its answer, and the answer while it comes."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import Field, StringConstraints, model_validator

from penstock.contracts.body import Count, DecimalString, Message
from penstock.contracts.work import PricedCost, Timing, TokenUsage, WorkCompleted, WorkRequested

Name = Annotated[str, StringConstraints(pattern="^[A-Za-z0-9_-]{1,64}$")]
"""What OpenAI-compatible endpoints take as the name of a tool."""
STOPS_MAX = 16
IMAGES_MAX = 16
"""Of one request, over all its messages."""
IMAGE_TOKENS_MAX = 4096
"""What one image is reckoned with where a call's worst case is: most models make fewer tokens of it."""
LOGPROBS_MAX = 20
CHOICES_MAX = 1024
INPUTS_MAX = 2048
"""Texts of one embedding."""
INPUT_TOKENS = 4
"""What a tokenizer adds to each text of an embedding, at most: where it begins and where it ends."""


class Image(Message):
    """An image as a reference into the blob store."""

    blob: Annotated[str, StringConstraints(pattern="^sha256:[0-9a-f]{64}$")]
    bytes: Count
    media_type: Annotated[str, StringConstraints(pattern="^image/[a-z0-9.+-]{1,64}$")]


class ToolCall(Message):
    """A call that a model asks for; `arguments` are held to the tool's schema before anybody sees them."""

    id: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    name: Name
    arguments: dict[str, Any]


class ToolSignature(Message):
    """A tool that the model may ask for. `parameters` is a JSON Schema of an object."""

    name: Name
    description: Annotated[str, StringConstraints(max_length=4096)] = ""
    parameters: dict[str, Any]


class ChatMessage(Message):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    images: list[Image] | None = None
    """Seen before the text, where the model takes images."""
    tool_calls: list[ToolCall] | None = None
    """With `assistant`: what it asked for."""
    tool_call_id: str | None = None
    """With `tool`: which call this answers."""


class Sampling(Message):
    """How tokens are drawn, beside the temperature. What is left out is the engine's default."""

    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)] | None = None
    stop: Annotated[list[Annotated[str, StringConstraints(min_length=1)]], Field(max_length=STOPS_MAX)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=LOGPROBS_MAX)] | None = None
    """Log probabilities of each token, with this many of the likeliest beside it."""


class InferenceRequested(WorkRequested):
    """A model call. `model` is what the pool's engines call the model.

    A chat has `messages`, a completion `prompt`, an embedding `inputs`; exactly one of them says something. At most one
    of `output_schema`, `regex` and `choices` binds the answer.
    """

    pool: str
    model: str
    operation: Literal["chat", "completion", "embedding"] = "chat"
    messages: list[ChatMessage]
    prompt: str | None = None
    inputs: Annotated[list[str], Field(min_length=1, max_length=INPUTS_MAX)] | None = None
    output_schema: dict[str, Any] | None = None
    regex: Annotated[str, StringConstraints(min_length=1, max_length=4096)] | None = None
    choices: Annotated[list[str], Field(min_length=1, max_length=CHOICES_MAX)] | None = None
    tools: Annotated[list[ToolSignature], Field(min_length=1, max_length=128)] | None = None
    tool_choice: str | None = None
    """`auto` (the default where there are tools), `none`, `required`, or a tool's name."""
    max_tokens: Annotated[int, Field(ge=1)]
    on_overflow: Literal["refuse", "clamp"] = "refuse"
    """Where prompt and `max_tokens` together are more than the model holds. A prompt that does not fit is refused."""
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] = 0.0
    seed: int | None = None
    sampling: Sampling | None = None
    adapter: str | None = None
    """A LoRA adapter, by the name that the engine's settings give it."""
    stream: bool = False
    """Whether the text is also sent piece by piece, on penstock.inference.streamed.v1."""

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        said = (bool(self.messages), self.prompt is not None, bool(self.inputs))
        if said != _SAYS[self.operation]:
            raise ValueError(
                "a chat has `messages`, a completion `prompt`, an embedding `inputs`, and no other of them"
            )
        if (self.output_schema is not None) + (self.regex is not None) + (self.choices is not None) > 1:
            raise ValueError("at most one of `output_schema`, `regex` and `choices`")
        if self.tool_choice is not None and not self.tools:
            raise ValueError("`tool_choice` without `tools`")
        return self


_SAYS = {"chat": (True, False, False), "completion": (False, True, False), "embedding": (False, False, True)}


class TokenLogprob(Message):
    """One token of the answer with its log probability, and those of the likeliest in its place."""

    token: str
    logprob: float
    top: dict[str, float] | None = None


class InferenceCompleted(WorkCompleted):
    """A model's answer. `output` is the parsed JSON where a schema was asked for, else the text.

    Of an embedding it is a list of vectors, in the order of `inputs`.
    """

    pool: str
    model: str
    engine: str
    simulated: bool
    finish_reason: str | None = None
    tool_calls: list[ToolCall] | None = None
    logprobs: list[TokenLogprob] | None = None
    max_tokens_used: Count | None = None
    """What `max_tokens` was clamped to, where it was."""
    adapter: str | None = None
    usage: TokenUsage = TokenUsage()
    timing: Timing = Timing()
    cost: PricedCost | None = None
    gpu_seconds: DecimalString | None = None
    """As in the usage record, which is told again from this one where a crash comes between the two."""
    gpu_type: str | None = None
    energy_joules: DecimalString | None = None
    engine_session: UUID | None = None


class InferenceStreamed(Message):
    """A piece of an answer that is still coming. A `sequence` of 0 begins (again, after a redelivery) from nothing.

    The last piece is `final` and says how the request ended; the text up to there is then what the completed result
    holds, to the byte: its length in characters and its SHA-256 say so. Text of an attempt that failed is void.
    """

    request_id: UUID
    tenant: str
    run_key: UUID
    run_id: str
    step: str
    attempt: int
    sequence: Count
    from_character: Count
    """Where `text` begins in the whole answer, in Unicode code points."""
    text: str
    tokens: Count
    """Output tokens up to the end of this piece."""
    final: bool = False
    status: Literal["succeeded", "failed"] | None = None
    """With `final`."""
    finish_reason: str | None = None
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")] | None = None
    """With `final`: of the whole text in UTF-8."""
    at: datetime

    @model_validator(mode="after")
    def _the_last_says_how_it_ended(self) -> Self:
        if self.final != (self.status is not None) or self.final != (self.sha256 is not None):
            raise ValueError("`status` and `sha256` come with the final piece, and with no other")
        return self
