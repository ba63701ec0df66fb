"""Owns the tool executor's settings and the file that says which MCP servers there are."""

import sys
from pathlib import Path
from typing import Annotated, Final, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from penstock.runtime.settings import ServiceSettings

PYTHON: Final = "{python}"
"""In a server's command: the interpreter that runs the executor."""

ServerName = Annotated[str, StringConstraints(pattern="^[A-Za-z0-9_-]{1,64}$")]


class ServerSpec(BaseModel):
    """One MCP server on stdio. It gets PATH, HOME and the like, `env`, and nothing else of our environment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: str
    args: list[str] = Field(default_factory=list)
    env: dict[str, str] = Field(default_factory=dict)
    cwd: Path = Path()
    """Relative to the file's own folder."""


class Servers(BaseModel):
    """The file: servers by name; a tool is called `server.tool`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    servers: dict[ServerName, ServerSpec] = Field(default_factory=dict)


class ToolExecutorSettings(ServiceSettings):
    """One executor holds a session with each server of its file."""

    tool_executor_servers: Path | None = Field(default=None, description="YAML file of MCP servers; none: no tools")
    tool_executor_in_flight: int = Field(default=32, ge=1, le=1024, description="tool calls that run at a time")

    @model_validator(mode="after")
    def _readable(self) -> Self:
        try:
            self.servers()
        except (OSError, yaml.YAMLError, ValidationError) as error:
            raise ValueError(f"no list of servers in {self.tool_executor_servers}: {error}") from None
        return self

    def servers(self) -> dict[str, ServerSpec]:
        """The servers of the file, with folders and the interpreter filled in."""
        path = self.tool_executor_servers
        if path is None:
            return {}
        listed = Servers.model_validate(yaml.safe_load(path.read_text()) or {})
        folder = path.resolve().parent
        return {name: _resolved(spec, folder) for name, spec in listed.servers.items()}


def _resolved(spec: ServerSpec, folder: Path) -> ServerSpec:
    command = sys.executable if spec.command == PYTHON else spec.command
    return spec.model_copy(update={"command": command, "cwd": folder / spec.cwd})
