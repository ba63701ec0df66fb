"""Owns the conversion of an engine's token counts, which include one another, into buckets that do not."""

from typing import Final

from penstock.contracts.messages import InferenceRequested, TokenUsage


def exclusive(prompt: int, cached: int, completion: int, reasoning: int) -> TokenUsage:
    """OpenAI's counts are inclusive: `prompt` holds `cached`, `completion` holds `reasoning`.

    The sum of the buckets is always prompt plus completion, whatever an engine says about the parts.
    """
    prompt, completion = max(0, prompt), max(0, completion)
    cached, reasoning = min(max(0, cached), prompt), min(max(0, reasoning), completion)
    return TokenUsage(input=prompt - cached, cached_input=cached, output=completion - reasoning, reasoning=reasoning)


def estimated_tokens(text: str) -> int:
    """Tokens of a text whose engine has not counted them: four characters each, the usual rule for English."""
    return -(-len(text) // 4)


IMAGE_TOKENS: Final = 1_000
"""An image of about a million pixels to most of the models that see."""


def estimated_prompt_tokens(request: InferenceRequested) -> int:
    """Tokens of all that the model reads, estimated; at least one."""
    tokens = 0
    for text in request.inputs or ():
        tokens += estimated_tokens(text)
    if request.prompt is not None:
        tokens += estimated_tokens(request.prompt)
    for message in request.messages:
        tokens += estimated_tokens(message.content)
        if message.images:
            tokens += IMAGE_TOKENS * len(message.images)
        for call in message.tool_calls or ():
            tokens += estimated_tokens(str(call.arguments))
    for tool in request.tools or ():
        tokens += estimated_tokens(tool.description) + estimated_tokens(str(tool.parameters))
    return max(1, tokens)
