"""Settings: defaults < the job's own < TOML file < ``GRADMQ_*`` variables < flags.

Every setting has a section and a key: ``optimizer.lr`` is ``lr`` under ``[optimizer]`` in TOML,
``GRADMQ_OPTIMIZER_LR`` in the environment, ``--set optimizer.lr=0.1`` on the command line. Read
once, at the edge of a process; below it, everything is passed.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from gradmq import failpoints
from gradmq.errors import SettingsError

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def seconds(value: object) -> object:
    """``"90s"``, ``"5m"``, ``"1.5h"``, ``"200ms"`` or a number of seconds, as seconds."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*([\d.]+)\s*(ms|s|m|min|h)?\s*", value)
    if match is None:
        raise ValueError(f"{value!r} is not a duration; write 90s, 5m or 1.5h")
    return float(match[1]) * _UNITS[match[2] or "s"]


Duration = Annotated[float, BeforeValidator(seconds), Field(gt=0)]

#: As seen from where it was written: processes that are told of it may work elsewhere.
PathHere = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RunSettings(_Section):
    """What is run, on how many processes, and until when."""

    name: str = Field("", description="name of the run and of its folder; empty: JOB-N")
    folder: Path = Field(Path("runs"), description="where run folders are made")
    workers: int = Field(2, ge=1, le=1024, description="worker processes on this machine")
    shards: int = Field(1, ge=1, le=4096, description="parameter server processes")
    infer: int = Field(1, ge=0, le=64, description="inference nodes")
    seed: int = Field(0, ge=0, description="of the model's initial parameters and the data order")
    data: str | None = Field(None, description="folder with the job's data, where it wants one")
    for_: Duration | None = Field(
        None, alias="for", description="train for so long, from the first update on; seconds"
    )
    updates: int | None = Field(None, ge=1, description="end after so many updates of shard 0")
    samples: int | None = Field(None, ge=1, description="end after so many applied samples")
    until: str | None = Field(None, description='end once a metric holds: "accuracy>=0.9"')
    patience: int | None = Field(
        None, ge=1, description="end after so many evaluations without improvement; keeps the best"
    )
    evaluate_every: Duration = Field(5.0, description="evaluate the newest release; seconds")
    release_every: Duration = Field(1.0, description="label a release, if changed; seconds")
    save_every: Duration = Field(30.0, description="write a release to disk; seconds")
    durability: Literal["memory", "journal"] = Field(
        "memory",
        description="what a verdict means: applied in memory, or on disk too, in a journal that "
        "can be replayed",
    )
    join_timeout: Duration = Field(60.0, description="wait for a role to join; seconds")


class OptimizerSettings(_Section):
    """The optimizer on the shards; semantics of torch.optim.SGD."""

    name: Literal["sgd"] = Field("sgd", description="which one: sgd")
    lr: float = Field(0.1, ge=0, description="learning rate")
    momentum: float = Field(0.0, ge=0, lt=1, description="momentum")
    nesterov: bool = Field(False, description="Nesterov's form of momentum")
    weight_decay: float = Field(0.0, ge=0, description="weight decay")


class StalenessSettings(_Section):
    """What a shard does with gradients computed on older parameters."""

    rule: Literal["bounded", "unbounded"] = Field(
        "bounded", description="which rule: bounded or unbounded"
    )
    bound: int = Field(8, ge=0, description="with bounded: reject what is staler; updates")


class WorkerSettings(_Section):
    """How workers push."""

    max_in_flight: int = Field(2, ge=1, le=64, description="pushes under way; 1: sequential SGD")
    threads: int = Field(
        0, ge=0, description="torch threads of a worker; 0: its share of the cores"
    )
    nice: int = Field(
        10, ge=0, le=19,
        description="with `gradmq run`: by how much inference nodes beside the workers go before "
        "them where processors are short, as nice(1) counts; 0: all alike",
    )  # fmt: skip
    step_timeout: Duration = Field(
        3600.0, description="give up a step that waits so long for a shard; seconds"
    )


class PsSettings(_Section):
    """Parameter server."""

    push_budget_mb: int = Field(
        1024, ge=1, description="memory for pushes under way, of all workers of a shard; MB"
    )
    keep_checkpoints: int = Field(
        3, ge=0, description="how many checkpoints stay, and the journal since them; 0: all"
    )
    max_gradient_norm: float | None = Field(
        None, gt=0, le=1e18, allow_inf_nan=False,
        description="reject a push whose part for one shard has a larger Euclidean norm, changes "
        "of buffers included",
    )  # fmt: skip


class NetworkSettings(_Section):
    """Where processes listen."""

    bind: str = Field("127.0.0.1", description="address to listen on")
    advertise: str = Field("", description="address told to others; empty: the bind address")
    port: int | None = Field(
        None, ge=0, le=65535,
        description="the broker's port; 0: any free one; unset: 5550, or any with `gradmq run`",
    )  # fmt: skip
    keys: PathHere | None = Field(
        None, description="keys folder, or the key file of one process; unset: no keys"
    )
    insecure: bool = Field(False, description="listen beyond this host although nothing is checked")
    transport: Literal["auto", "shm", "tcp"] = Field(
        "auto",
        description="of gradients and parameters: shm (shared memory, or refuse to join), tcp, or "
        "auto: shared memory where worker and shard are on one host",
    )


class InferSettings(_Section):
    """Inference node."""

    host: str = Field("127.0.0.1", description="HTTP address to listen on")
    port: int = Field(0, ge=0, le=65535, description="HTTP port of the first node; 0: any free")
    token_file: PathHere | None = Field(
        None, description="file (mode 0600) with a token that every request must bear"
    )
    max_batch_size: int = Field(
        1, ge=1, le=65536,
        description="rows of tensors, of one or more requests, that the model runs on at once; 1: "
        "every request by itself, as must be where the rows of an answer depend on each other",
    )  # fmt: skip
    max_queue_delay: Annotated[float, BeforeValidator(seconds), Field(ge=0, le=10)] = Field(
        0.0,
        description="how long a request may wait for others to run with; 0: only while the model "
        "is busy; seconds",
    )
    max_queue_size: int = Field(
        256, ge=1, le=65536, description="requests that wait for the model; more are answered 429"
    )
    request_timeout: Duration = Field(
        60.0, description="from the end of a request's head to its answer; seconds"
    )
    keep_releases: int = Field(
        3, ge=1, le=1000,
        description="how many of the newest releases can be asked for or gone back to; each takes "
        "the memory of one model",
    )  # fmt: skip
    inplace: bool = Field(
        False,
        description="write each release over the last one, between requests: the memory of one "
        "model, none to go back to",
    )
    max_age: Duration | None = Field(
        None, description="say not ready when the newest release is older; seconds"
    )
    max_score_drop: float | None = Field(
        None, ge=0, allow_inf_nan=False,
        description="skip a release that the job scores lower than the one before by more than "
        "this",
    )  # fmt: skip
    return_to_stable: bool = Field(
        False, description="when a release is skipped, go back to the one labelled stable and stay"
    )


class MetricsSettings(_Section):
    """`/metrics` of broker, shards and workers, for Prometheus."""

    port: int | None = Field(
        None, ge=0, le=65535,
        description="HTTP port of the broker's `/metrics`; with `gradmq run` the shards' follow, "
        "then the workers'; 0: any free ones; unset: none",
    )  # fmt: skip
    host: str = Field("127.0.0.1", description="HTTP address of `/metrics` to listen on")
    token_file: PathHere | None = Field(
        None, description="file (mode 0600) with a token that who asks for metrics must bear"
    )

    def port_after(self, others: int) -> int | None:
        """Of the role that comes after so many others on one machine."""
        return self.port + others if self.port else self.port


class Settings(BaseModel):
    """All settings of a run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: RunSettings = RunSettings.model_construct()
    optimizer: OptimizerSettings = OptimizerSettings.model_construct()
    staleness: StalenessSettings = StalenessSettings.model_construct()
    worker: WorkerSettings = WorkerSettings.model_construct()
    ps: PsSettings = PsSettings.model_construct()
    network: NetworkSettings = NetworkSettings.model_construct()
    infer: InferSettings = InferSettings.model_construct()
    metrics: MetricsSettings = MetricsSettings.model_construct()

    def told_to_members(self) -> dict[str, Any]:
        """What the broker sends to everyone who joins."""
        staleness = self.staleness.model_dump()
        if self.staleness.rule == "unbounded":
            del staleness["bound"]
        return {
            "optimizer": self.optimizer.model_dump(),
            "staleness": staleness,
            "transport": self.network.transport,
            "durability": self.run.durability,
            "max_gradient_norm": self.ps.max_gradient_norm,
        }

    def to_toml(self) -> str:
        """All settings, as a file that gives the same settings again."""
        lines = []
        for section, values in self.model_dump(by_alias=True, mode="json").items():
            lines.append(f"[{section}]")
            lines += [f"{k} = {_toml(v)}" for k, v in values.items() if v is not None]
            lines.append("")
        return "\n".join(lines)


def resolve(
    job: Mapping[str, Any],
    file: Path | None,
    environment: Mapping[str, str],
    flags: Mapping[str, Any],
) -> Settings:
    """Merge all sources; ``job`` and ``flags`` have dotted keys. Raises SettingsError."""
    merged: dict[str, dict[str, Any]] = {}
    _merge(merged, _nested(job, "the job's settings"))
    if file is not None:
        _merge(merged, _read_toml(file))
    _merge(merged, _nested(dict(_from_environment(environment)), "the environment"))
    _merge(merged, _nested({k: v for k, v in flags.items() if v is not None}, "the flags"))
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise SettingsError(_explain(error)) from None


def keys_of(flag: Path | None, environment: Mapping[str, str]) -> Path | None:
    """``network.keys`` of a command that has no other setting; raises SettingsError."""
    return resolve({}, None, environment, {"network.keys": flag}).network.keys


def all_keys() -> Iterator[tuple[str, str, str, str]]:
    """(key, environment variable, default, description) of every setting."""
    for section, field in Settings.model_fields.items():
        assert field.annotation is not None
        for name, entry in field.annotation.model_fields.items():
            key = entry.alias or name
            default = "" if entry.default is None else str(entry.default)
            variable = f"GRADMQ_{section}_{key}".upper()
            yield f"{section}.{key}", variable, default, entry.description or ""


def _from_environment(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    known = {variable: key for key, variable, _, _ in all_keys()}
    for variable, value in environment.items():
        if variable in known:
            yield known[variable], value
        elif variable.startswith("GRADMQ_") and variable != failpoints.VARIABLE:
            raise SettingsError(
                f"environment variable {variable} is no setting; see `gradmq run --help-all`"
            )


def _nested(flat: Mapping[str, Any], where: str) -> dict[str, dict[str, Any]]:
    out: dict[str, dict[str, Any]] = {}
    for key, value in flat.items():
        section, dot, name = key.partition(".")
        if not dot:
            raise SettingsError(f"{where}: {key!r} has no section; write it like optimizer.lr")
        out.setdefault(section, {})[name] = value
    return out


def _read_toml(file: Path) -> dict[str, dict[str, Any]]:
    try:
        with file.open("rb") as stream:
            values = tomllib.load(stream)
    except OSError as error:
        raise SettingsError(f"cannot read {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} is not TOML: {error}") from None
    for section, entries in values.items():
        if not isinstance(entries, dict):
            raise SettingsError(f"{file}: {section!r} stands outside of a section")
    return values


def _merge(into: dict[str, dict[str, Any]], values: Mapping[str, Mapping[str, Any]]) -> None:
    for section, entries in values.items():
        into.setdefault(section, {}).update(entries)


def _explain(error: ValidationError) -> str:
    """The first problem, with the key, the value and what is allowed."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        if len(first["loc"]) == 1:
            return f"there is no section {key!r}; sections are {', '.join(Settings.model_fields)}"
        section = str(first["loc"][0])
        names = [k for k, *_ in all_keys() if k.startswith(f"{section}.")]
        return f"there is no setting {key!r}; in this section are {', '.join(names)}"
    reason = first["msg"].removeprefix("Value error, ")
    return f"setting {key} is {first['input']!r}: {reason[0].lower()}{reason[1:]}"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
