"""Owns how the core makes the messages it makes by the thousand: without checking its own word again."""

from typing import Any, TypeVar

from penstock.contracts.messages import Message

M = TypeVar("M", bound=Message)

_set = object.__setattr__


def trusted(model: type[M], fields: dict[str, Any]) -> M:
    """The message with exactly these fields: all of the model's, each of its declared type.

    A third of the time of the model's own constructor. A test holds every message that conversations make against
    the constructor.
    """
    message = model.__new__(model)
    _set(message, "__dict__", fields)
    _set(message, "__pydantic_fields_set__", set(fields))
    _set(message, "__pydantic_extra__", None)
    _set(message, "__pydantic_private__", None)
    return message
