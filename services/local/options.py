"""Owns what a person or a test can choose about a local stack."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from penstock.contracts.topics import Deployment

Model = Literal["real", "simulated"]

DEFAULT_DATA = Path(".penstock")


class Counts(BaseModel):
    """How many processes of each service run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    orchestrator: int = Field(default=1, ge=0, le=16)
    inference: int = Field(default=1, ge=0, le=16)
    tool_executor: int = Field(default=1, ge=0, le=16)
    worker: int = Field(default=1, ge=0, le=16)
    gateway: int = Field(default=1, ge=0, le=16)


class Options(BaseModel):
    """A local stack, described."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Model = "real"
    counts: Counts = Counts()
    task_modules: tuple[str, ...] = ()
    """Modules with @task functions that the workers import; from the current directory or installed."""
    tool_servers: Path | None = None
    """The file that names the MCP servers of the tool executor."""
    gateway_port: int | None = Field(default=None, ge=1, le=65535)
    pools: tuple[str, ...] = ("small",)
    queues: tuple[str, ...] = ("default",)
    home_partitions: int = Field(default=4, ge=1, le=1024)
    work_partitions: int = Field(default=4, ge=1, le=1024)
    read_side_partitions: int = Field(default=4, ge=1, le=1024)
    environment: Mapping[str, str] = Field(default_factory=dict)
    """PENSTOCK_… variables for all services; they win over what the stack sets itself."""
    service_environment: Mapping[str, Mapping[str, str]] = Field(default_factory=dict)
    """The same for one service, by its name."""

    @property
    def deployment(self) -> "Deployment":
        """What the topic registry needs to know."""
        from penstock.contracts.topics import Deployment  # here: the registry loads every message model

        return Deployment(
            pools=self.pools,
            queues=self.queues,
            home_partitions=self.home_partitions,
            work_partitions=self.work_partitions,
            read_side_partitions=self.read_side_partitions,
        )
