"""Owns settings: one frozen class per service, read once from `PENSTOCK_…` variables, every fault named."""

import difflib
import os
import socket
from collections.abc import Mapping
from typing import Annotated, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from penstock.contracts.topics import Deployment, Service
from penstock.runtime.errors import SettingsError

PREFIX = "PENSTOCK_"


def _split(value: object) -> object:
    """`a,b` as it stands in a variable."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


BLOB_SCHEMES = ("file", "s3", "gs", "az")

Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
"""Several names, separated by commas in the variable."""

Partitions = Annotated[int, Field(ge=1, le=1024)]


class PostgresSettings(BaseSettings):
    """What a service with a database of its own adds."""

    postgres_url: str = Field(description="postgresql://user@host:port/database; one database per service")
    postgres_connections_max: int = Field(default=8, ge=1, le=200)
    """Connections that one process opens."""


class ServiceSettings(BaseSettings):
    """What all services share. A field `home_partitions` is the variable PENSTOCK_HOME_PARTITIONS."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix=PREFIX)

    kafka_bootstrap_servers: str = Field(default="127.0.0.1:9092", min_length=1)
    """Brokers to begin with, host:port, separated by commas."""
    health_host: str = "127.0.0.1"
    """Where /healthz, /readyz and /metrics listen."""
    health_port: int = Field(default=0, ge=0, le=65535, description="0 takes a free port and logs it")
    drain_seconds: float = Field(default=20.0, gt=0, le=3600)
    """How long what is in flight may take to end when the service stops or loses a partition."""
    log_format: Literal["auto", "json", "console"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    instance: str = Field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}", min_length=1)
    """How this process is called in log lines, groups and results."""
    pools: Names = ("small",)
    """The pools of engines: three lanes, and so three topics, for each."""
    queues: Names = ("default",)
    """The queues of tasks: a topic for each."""
    home_partitions: Partitions = 4
    """Of what the orchestrator reads; never changed once the topics exist."""
    work_partitions: Partitions = 4
    """Of requests for work: how many processes can share a pool or a queue."""
    read_side_partitions: Partitions = 4
    """Of what is told to the gateway and to other systems."""
    replication_factor: int = Field(default=1, ge=1, le=10)
    """Copies of each topic; 3 on a cluster."""

    blob_url: str = ""
    """Where values over 64 KiB are kept: file:///folder, s3://bucket/prefix, gs://…, az://…; every service the same."""

    @field_validator("blob_url")
    @classmethod
    def _a_store(cls, url: str) -> str:
        if url and urlsplit(url).scheme not in BLOB_SCHEMES:
            raise ValueError(f"a blob store is a URL that begins with one of {', '.join(BLOB_SCHEMES)}")
        return url

    @property
    def deployment(self) -> Deployment:
        """What this deployment chose for the topic registry."""
        return Deployment(
            pools=self.pools,
            queues=self.queues,
            home_partitions=self.home_partitions,
            work_partitions=self.work_partitions,
            read_side_partitions=self.read_side_partitions,
            replication_factor=self.replication_factor,
        )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` passes: no second reader of the environment, no dotenv file by surprise."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)


S = TypeVar("S", bound=ServiceSettings)


def load(settings_class: type[S], environ: Mapping[str, str]) -> S:
    """The settings of one service. Raises SettingsError that lists every fault."""
    names = {PREFIX + field.upper(): field for field in settings_class.model_fields}
    faults: list[str] = []
    values: dict[str, str] = {}
    for variable in sorted(environ):
        if variable in names:
            values[names[variable]] = environ[variable]
        elif variable.startswith(PREFIX) and not _belongs_elsewhere(variable, settings_class):
            nearest = difflib.get_close_matches(variable, names, n=1, cutoff=0.0)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            faults.append(f"{variable}: no such setting{hint}")
    try:
        settings = settings_class(**values)  # type: ignore[arg-type]  # strings, which pydantic parses
    except ValidationError as error:
        faults += [f"{PREFIX}{_dotted(fault['loc']).upper()}: {fault['msg']}" for fault in error.errors()]
        settings = None
    if faults or settings is None:
        raise SettingsError("\n".join(faults))
    return settings


def _belongs_elsewhere(variable: str, settings_class: type[ServiceSettings]) -> bool:
    """Another service's setting, or its database: one environment may serve all services of a machine."""
    field = variable.removeprefix(PREFIX).lower()
    if field in PostgresSettings.model_fields:
        return True
    owners = [owner for owner in (*Service, "local") if field.startswith(f"{owner}_")]
    return any(not any(own.startswith(f"{owner}_") for own in settings_class.model_fields) for owner in owners)


def _dotted(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location)
