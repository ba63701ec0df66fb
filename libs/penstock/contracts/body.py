"""Owns what all message bodies share: the base class, how it becomes JSON, and the constrained types of fields."""

from decimal import Decimal
from functools import cache
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, StringConstraints, WithJsonSchema
from pydantic.fields import FieldInfo

from penstock.contracts.ids import RUN_ID_PATTERN, TENANT_PATTERN

Tenant = Annotated[str, StringConstraints(pattern=f"^{TENANT_PATTERN.pattern}$")]
RunId = Annotated[str, StringConstraints(pattern=f"^{RUN_ID_PATTERN.pattern}$")]
Labels = Annotated[
    dict[
        Annotated[str, StringConstraints(min_length=1, max_length=63)],
        Annotated[str, StringConstraints(max_length=256)],
    ],
    Field(max_length=32),
]
Currency = Annotated[str, StringConstraints(pattern="^[A-Z]{3}$")]
DecimalString = Annotated[
    Decimal,
    PlainSerializer(lambda value: format(value, "f"), return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"}),
]
Count = Annotated[int, Field(ge=0)]


class Message(BaseModel):
    """What every body shares: frozen, tolerant of unknown fields, optional fields absent when not given."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    def to_json(self) -> bytes:
        """The body as it goes onto the topic: UTF-8 JSON without the optional fields that are not set."""
        return self.__pydantic_serializer__.to_json(self, exclude_none=True)

    @classmethod
    def trusted(cls, values: dict[str, Any]) -> Self:
        """A message of values that are valid already, such as our own: nothing is checked, at a fifth of the cost.

        `values` names every field that has no default, and belongs to the message from here on.
        """
        names, defaults = _fields(cls)
        if len(values) < len(names):
            for name, field in defaults:
                if name not in values:
                    values[name] = field.get_default(call_default_factory=True, validated_data={})
        message = _new(cls)
        _set_values(message, values)
        _set_names(message, names)
        _set_extra(message, None)
        _set_private(message, None)
        return message


_new = object.__new__
# What a model consists of, set by its descriptors: by their names it would take twice as long.
_set_values, _set_names, _set_extra, _set_private = (
    BaseModel.__dict__[name].__set__
    for name in ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
)


@cache
def _fields(message: type[Message]) -> tuple[set[str], tuple[tuple[str, FieldInfo], ...]]:
    """All names, shared by all trusted messages of a type; and those that have a default."""
    fields = message.model_fields
    return set(fields), tuple((name, field) for name, field in fields.items() if not field.is_required())


def either(success: str, then: dict[str, Any]) -> ConfigDict:
    """The schema's form of: an output where `status` is `success`, an error where it is not."""
    return ConfigDict(
        json_schema_extra={
            "if": {"properties": {"status": {"const": success}}},
            "then": {**then, "not": {"required": ["error"]}},
            "else": {"required": ["error"], "not": {"required": ["output"]}},
        }
    )
