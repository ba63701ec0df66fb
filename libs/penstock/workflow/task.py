"""Owns `@task`: the user's Python functions by name, with their inputs and outputs checked against type hints.

A task's input is its keyword arguments, so the function takes named parameters and the workflow's `input` is an
object with those names. A function whose one parameter is a pydantic model takes the whole input as that model.
"""

import inspect
import typing
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, NotRequired, TypeVar, overload
from uuid import UUID

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic_core import PydanticSerializationError
from typing_extensions import TypedDict

from penstock.contracts.messages import NextMove, TaskRequested

F = TypeVar("F", bound=Callable[..., Any])


class Failed(Exception):  # noqa: N818 - a task says `raise Failed(...)`, in the words of the topic that carries it
    """Raised by a task that knows what its failure is called and what should be done about it."""

    def __init__(
        self, code: str, message: str, *, next: NextMove = NextMove.GIVE_UP, retry_after_ms: int | None = None
    ) -> None:
        super().__init__(message)
        self.code: Final = code
        self.message: Final = message
        self.next: Final = next
        self.retry_after_ms: Final = retry_after_ms


class InputInvalidError(ValueError):
    """The input does not fit the function's parameters; the message names the path of each fault."""


class OutputInvalidError(ValueError):
    """The function returned something that its own annotation or JSON does not allow."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a task may know about the attempt it runs in. `request_id` is the idempotency key for side effects."""

    request_id: UUID
    tenant: str
    run_id: str
    workflow: str
    step: str
    attempt: int
    deadline: datetime
    labels: Mapping[str, str]


_CURRENT: ContextVar[TaskRequested] = ContextVar("penstock_task")
set_current = _CURRENT.set
reset_current = _CURRENT.reset


def current() -> Context:
    """The attempt that is running. Raises LookupError outside a task."""
    request = _CURRENT.get()
    return Context(
        request_id=request.request_id,
        tenant=request.tenant,
        run_id=request.run_id,
        workflow=request.workflow,
        step=request.step,
        attempt=request.attempt,
        deadline=request.deadline,
        labels=request.labels,
    )


@dataclass(frozen=True, slots=True)
class Signature:
    """What a task takes and gives, as JSON Schemas; an empty one says nothing."""

    input: dict[str, Any]
    output: dict[str, Any]


class Task:
    """One registered function. The checkers of its input and output are built once, here."""

    __slots__ = ("_arguments", "_output", "_parameters", "_single", "function", "is_async", "name")

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name: Final = name
        self.function: Final = function
        self.is_async: Final = inspect.iscoroutinefunction(function)
        hints = typing.get_type_hints(function, include_extras=True)
        parameters = _named_parameters(name, function)
        self._parameters = parameters
        self._single: str | None = _single_model(parameters, hints)
        self._arguments: TypeAdapter[Any] = (
            TypeAdapter(hints[self._single]) if self._single is not None else _arguments_of(name, parameters, hints)
        )
        output = hints.get("return", Any)
        self._output: TypeAdapter[Any] | None = None if output is Any else TypeAdapter(output)

    def arguments(self, value: Any) -> dict[str, Any]:
        """The keyword arguments for the function. Raises InputInvalidError."""
        if value is None:
            value = {}
        try:
            checked = self._arguments.validator.validate_python(value)  # what the adapter adds is options unused here
        except ValidationError as error:
            raise InputInvalidError(_faults(error, "input")) from error
        if self._single is not None:
            return {self._single: checked}
        arguments: dict[str, Any] = checked
        return arguments

    def signature(self) -> Signature:
        """The schemas of its input and its output."""
        return Signature(_schema(self._arguments, "validation"), _schema(self._output, "serialization"))

    def output_json(self, value: Any) -> bytes:
        """What the function returned as JSON. Raises OutputInvalidError."""
        adapter = self._output
        try:
            if adapter is None:
                return _ANYTHING.serializer.to_json(value)
            return adapter.serializer.to_json(adapter.validator.validate_python(value))
        except ValidationError as error:
            raise OutputInvalidError(_faults(error, "output")) from error
        except (PydanticSerializationError, UnicodeEncodeError) as error:
            raise OutputInvalidError(f"output: not JSON: {error}") from error


_ANYTHING: Final[TypeAdapter[Any]] = TypeAdapter(Any)
_REGISTRY: Final[dict[str, Task]] = {}


@overload
def task(function: F, /) -> F: ...
@overload
def task(*, name: str) -> Callable[[F], F]: ...
def task(function: F | None = None, /, *, name: str | None = None) -> F | Callable[[F], F]:
    """Registers a function under its own name or the one given; the function itself stays as it was."""

    def register(target: F) -> F:
        chosen = name if name is not None else target.__name__
        known = _REGISTRY.get(chosen)
        if known is not None and _place(known.function) != _place(target):
            raise ValueError(f"two tasks are called {chosen!r}: {_place(known.function)} and {_place(target)}")
        _REGISTRY[chosen] = Task(chosen, target)
        return target

    return register if function is None else register(function)


def find(name: str) -> Task | None:
    """The task of that name, None where no imported module registers one."""
    return _REGISTRY.get(name)


def registered() -> tuple[str, ...]:
    """The names of all tasks, sorted."""
    return tuple(sorted(_REGISTRY))


def signatures() -> dict[str, Signature]:
    """What all registered tasks take and give, by name."""
    return {name: known.signature() for name, known in sorted(_REGISTRY.items())}


def _schema(adapter: TypeAdapter[Any] | None, mode: Literal["validation", "serialization"]) -> dict[str, Any]:
    """The schema of a type; empty where it has none that JSON Schema can say."""
    try:
        return {} if adapter is None else adapter.json_schema(mode=mode)
    except PydanticInvalidForJsonSchema:
        return {}


def _place(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _named_parameters(name: str, function: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    parameters = tuple(inspect.signature(function).parameters.values())
    for parameter in parameters:
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"task {name!r}: parameter {parameter} cannot be given by name")
    return parameters


def _single_model(parameters: tuple[inspect.Parameter, ...], hints: Mapping[str, Any]) -> str | None:
    if len(parameters) != 1:
        return None
    hint = hints.get(parameters[0].name)
    return parameters[0].name if isinstance(hint, type) and issubclass(hint, BaseModel) else None


def _arguments_of(
    name: str, parameters: tuple[inspect.Parameter, ...], hints: Mapping[str, Any]
) -> TypeAdapter[dict[str, Any]]:
    fields = {
        parameter.name: hints.get(parameter.name, Any)
        if parameter.default is inspect.Parameter.empty
        else NotRequired[hints.get(parameter.name, Any)]
        for parameter in parameters
    }
    typed_dict: Any = TypedDict  # a checker wants literal fields; these are the function's
    shape = typed_dict(f"Input of {name}", fields)
    shape.__pydantic_config__ = ConfigDict(extra="forbid")
    return TypeAdapter(shape)


def _faults(error: ValidationError, root: str) -> str:
    """The first faults with their paths, without the values: those may be secrets."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    shown = [f"{_path(root, fault['loc'])}: {fault['msg']}" for fault in faults[:5]]
    more = len(faults) - len(shown)
    return "; ".join(shown) + (f" (and {more} more)" if more else "")


def _path(root: str, location: tuple[int | str, ...]) -> str:
    return root + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
