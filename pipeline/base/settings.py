"""Settings: the only reader of the environment. Frozen, described, unknown keys refused.

Three URLs move dropdex from a laptop to a cluster: sources, broker, index. Everything else has a default that works.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from pipeline.base.errors import ConfigurationError

PREFIX = "DROPDEX_"

DEFAULT_IGNORE = (".*", "*~", "*.tmp", "*.part", "*.crdownload", "*.swp", "*.swx", "~$*", "#*#", "4913", "Thumbs.db", "desktop.ini")
"""Hidden files, and what editors, browsers and office programs write beside the document they save."""

Names = Annotated[tuple[str, ...], NoDecode]
"""A comma-separated list, as it is comfortable in an environment variable."""


class Settings(BaseSettings):
    """What an operator can choose. Read once, passed down, never changed."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    # Where things are -------------------------------------------------------------------------------------------
    sources: Names = Field(("file:./inbox",), description="Comma-separated source URLs: file:PATH or s3://bucket/prefix?queue=NAME")
    broker: SecretStr = Field(SecretStr("embedded:./.dropdex"), description="Redis URL, or embedded:DIR to start a Valkey of our own there")
    task_broker: SecretStr = Field(
        SecretStr(""), description="Another broker for the tasks, such as amqp://USER:PASSWORD@HOST (RabbitMQ); empty takes the Redis above"
    )
    index: str = Field("file:./index", description="Index home: file:PATH or s3://bucket/prefix")
    mirrors: Names = Field((), description="Comma-separated homes that receive a copy of every generation")
    state: Path = Field(Path(".dropdex"), description="Folder for what this host keeps: schedule, scratch files, cache, logs")
    namespace: str = Field("dropdex", description="Prefix of every Redis key, so that several pipelines can share a server")

    # Source ------------------------------------------------------------------------------------------------------
    ignore: Names = Field(
        DEFAULT_IGNORE, description="Comma-separated name patterns that are never indexed, matched against every path part"
    )
    polling: bool = Field(False, description="Poll watched folders instead of using kernel events (network file systems)")
    polling_interval: float = Field(1.0, gt=0, description="Seconds between two polls of a watched folder")
    settle_after: float = Field(
        0.5, ge=0, description="Seconds that size and mtime must rest where no close event tells that a file is complete"
    )

    # Document ----------------------------------------------------------------------------------------------------
    max_document_bytes: int = Field(64 * 2**20, gt=0, description="Bytes; a larger document is a dead letter")
    max_extracted_chars: int = Field(20_000_000, gt=0, description="Characters of extracted text; a longer document is a dead letter")
    extract_seconds: float = Field(60.0, gt=0, description="Seconds one extraction may take before its process is killed")
    extract_memory_bytes: int = Field(2 * 2**30, gt=0, description="Bytes of address space one extraction process may have")
    extract_processes: int = Field(1, ge=1, description="Extraction processes per embedding worker")
    max_attempts: int = Field(3, ge=1, description="Attempts at one version of a document before it becomes a dead letter")

    # Embedding ---------------------------------------------------------------------------------------------------
    model: str = Field(
        "all-MiniLM-L6-v2",
        description="sentence-transformers model: the packaged all-MiniLM-L6-v2, a path, a hub name, the static wordllama:256, "
        "or hash:DIMENSION for tests",
    )
    backend: Literal["auto", "torch", "openvino"] = Field(
        "auto", description="Library that computes the model; auto takes OpenVINO where it is installed, and torch on a GPU"
    )
    precision: Literal["auto", "fp32", "bf16", "int8"] = Field(
        "auto",
        description="Numbers the model computes in; auto takes the fastest on this processor that stays within a cosine of 0.999 of "
        "fp32. Name it where machines with different processors share an index",
    )
    passage_tokens: int = Field(0, ge=0, description="Tokens per passage, special tokens included; 0 takes the model's own window")
    token_budget: int = Field(1024, gt=0, description="Tokens, padding included, per forward pass")
    model_threads: int = Field(0, ge=0, description="Threads of one embedding worker's model; 0 takes every core")

    # Relay -------------------------------------------------------------------------------------------------------
    workers: int = Field(1, ge=1, description="Embedding workers that `up` starts; the relay keeps more busy where more show life")
    inflight_batches: int = Field(
        2, ge=1, description="Batches of backfill in flight per embedding worker; live events have one more place of their own"
    )
    max_batch: int = Field(2000, ge=1, description="Documents per batch at the most")
    max_batch_bytes: int = Field(32 * 2**20, gt=0, description="Bytes of documents per batch at the most")
    live_batch_seconds: float = Field(0.5, gt=0, description="Seconds of work per batch while live events wait")
    backfill_batch_seconds: float = Field(3.0, gt=0, description="Seconds of work per batch while only backfill waits")
    window: int = Field(20_000, ge=1, description="Unacknowledged events at the most; beyond it the source has to wait")
    reconcile_every: float = Field(900.0, gt=0, description="Seconds between two listings")
    removal_guard: float = Field(0.3, ge=0, le=1, description="Share of the documents that one reconcile may remove unless told otherwise")

    # Index -------------------------------------------------------------------------------------------------------
    build_interval: float = Field(0.1, ge=0, description="Seconds between two publications at the least; the first one goes at once")
    build_documents: int = Field(10_000, ge=1, description="Documents per generation at the most")
    merge_factor: int = Field(8, ge=2, description="Segments of one tier that are merged into one of the next")
    exact_rows: int = Field(200_000, ge=1, description="Rows up to which a segment is searched exactly")
    target_recall: float = Field(
        0.98, gt=0, le=1, description="recall@10 against exact search that a graph or inverted-list segment must reach"
    )
    keep_generations: int = Field(10, ge=1, description="Generations that cleanup keeps for rollback")
    orphan_seconds: float = Field(
        3600.0, ge=0, description="Seconds after which a file of the home that no kept generation names is collected"
    )

    # Celery ------------------------------------------------------------------------------------------------------
    retry_backoff: int = Field(
        60, ge=1, description="Seconds before the first retry of an unavailable dependency; then twice that, up to four times"
    )
    task_seconds: int = Field(600, ge=10, description="Seconds after which a task is killed where its pool can do that")
    rebuild_every: float = Field(3600.0, gt=0, description="Seconds between two full merges of the index")
    cleanup_every: float = Field(86_400.0, gt=0, description="Seconds between two cleanups")
    statistics_every: float = Field(300.0, gt=0, description="Seconds between two statistics")
    dead_letter_days: float = Field(30.0, gt=0, description="Days a dead letter is kept")

    # Flower and logs ---------------------------------------------------------------------------------------------
    flower_port: int = Field(5555, ge=0, le=65_535, description="Port of Flower; 0 starts none")
    flower_address: str = Field("127.0.0.1", description="Address that Flower binds; any but the loopback asks for credentials")
    flower_basic_auth: SecretStr = Field(SecretStr(""), description="Who may use Flower, as USER:PASSWORD, several separated by commas")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least severity that is logged")
    log_format: Literal["text", "json"] = Field("text", description="One line of text per event, or one JSON object")
    run: str = Field(
        "",
        pattern=r"^[\w.-]{0,64}$",
        description="Name of this start of the stack, in every log line; empty: `up`, or a process alone, makes one",
    )

    @field_validator("sources", "mirrors", "ignore", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("sources")
    @classmethod
    def _at_least_one(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("name at least one source, for example file:./inbox")
        return value

    @property
    def embedded_broker(self) -> Path | None:
        """Folder of the embedded broker, where there is one."""
        scheme, _, path = self.broker.get_secret_value().partition(":")
        return Path(path).absolute() if scheme == "embedded" else None


def load(environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Read the environment, refuse what nobody knows. Raises ConfigurationError with one sentence and a hint."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for key in os.environ if environ is None else environ:
        if key.startswith(PREFIX) and key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise ConfigurationError(
                f"{key} is not a setting", hint=f"did you mean {near[0]}?" if near else "list them with: dropdex settings"
            )
    try:
        return Settings(**overrides)
    except ValidationError as error:
        first = error.errors()[0]
        name = PREFIX + "_".join(str(part) for part in first["loc"][:1]).upper()
        raise ConfigurationError(f"{name}: {first['msg']}", hint="see its description with: dropdex settings") from error
    except ValueError as error:
        raise ConfigurationError(str(error), hint="see the descriptions with: dropdex settings") from error


def load_for(source: str | None, **overrides: Any) -> Settings:
    """The environment's settings, with the source that a command line names (a folder or a URL) instead of the configured ones."""
    if source:
        overrides["sources"] = (source if source.startswith(("file:", "s3:")) else f"file:{source}",)
    return load(**overrides)


def origins(settings: Settings) -> dict[str, str]:
    """Where each value came from: `environment` or `default` (or `command line`, where it is neither)."""
    return {
        name: "environment"
        if PREFIX + name.upper() in os.environ
        else "default"
        if getattr(settings, name) == field.get_default(call_default_factory=True)
        else "command line"
        for name, field in Settings.model_fields.items()
    }
