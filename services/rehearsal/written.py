"""Owns what every part of a test file shares."""

from pydantic import BaseModel, ConfigDict


class Written(BaseModel):
    """Closed, so that a misspelled field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
