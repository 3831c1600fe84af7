"""What commands have in common: their flags, and the settings that come of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from cyclopts import Parameter

from gradmq.config import Settings, resolve
from gradmq.errors import SettingsError

DEFAULT_PORT = 5550
DEFAULT_BROKER = f"tcp://127.0.0.1:{DEFAULT_PORT}"

Config = Annotated[Path | None, Parameter(help="TOML file with settings.")]
Set = Annotated[
    list[str],
    Parameter(
        name="--set",
        help="Any setting, as KEY=VALUE; may be repeated.",
        negative="",
        consume_multiple=False,
        show_default=False,
    ),
]
Broker = Annotated[str, Parameter(help="Address of the broker.")]
State = Annotated[Path, Parameter(help="Folder for checkpoints and counters.")]
JobName = Annotated[str, Parameter(help="A built-in job (lm, fashion-mnist) or a Python file.")]
Bind = Annotated[str | None, Parameter(help="Address to listen on; default 127.0.0.1.")]
Advertise = Annotated[
    str | None, Parameter(help="Address told to others, not 0.0.0.0; default: --bind.")
]
Keys = Annotated[
    Path | None, Parameter(help="Keys folder, or this process's key file (`gradmq keys`).")
]
Insecure = Annotated[
    bool | None, Parameter(help="Listen beyond this host, though nothing is checked.", negative="")
]


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class MetricsFlags:
    """Of the roles that have no HTTP but this."""

    metrics_port: Annotated[
        int | None, Parameter(help="Port of /metrics, for Prometheus; 0: any free one.")
    ] = None
    metrics_host: Annotated[
        str | None, Parameter(help="Address of /metrics to listen on; default 127.0.0.1.")
    ] = None
    metrics_token_file: Annotated[
        Path | None, Parameter(help="File (mode 0600) with a token that scrapers must bear.")
    ] = None

    def settings(self) -> dict[str, Any]:
        """As keywords of ``settings_of``."""
        return {key.replace("_", "__", 1): value for key, value in asdict(self).items()}


NO_METRICS = MetricsFlags()


def pairs(values: Sequence[str]) -> dict[str, str]:
    """Of the flags ``--set KEY=VALUE``."""
    out = {}
    for key, equals, value in (value.partition("=") for value in values):
        if not equals:
            raise SettingsError(f"--set {key}: write it as KEY=VALUE")
        out[key] = value
    return out


def settings_of(
    config: Path | None,
    more: Sequence[str],
    job_settings: Mapping[str, Any] = MappingProxyType({}),
    **flags: Any,
) -> Settings:
    """What counts for this process; ``flags`` are named as in ``network__bind``."""
    dotted = {key.replace("__", "."): value for key, value in flags.items()}
    return resolve(job_settings, config, os.environ, {**dotted, **pairs(more)})
