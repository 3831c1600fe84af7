"""The clients: what each needs, what it is asked to do, and how its version is told."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from conformance.environments import HERE, environment, pins

#: By job, the URL of the node that serves it.
Urls = Mapping[str, str]

Command = Sequence[str | Path]

ECHO = str(HERE / "echo_job.py")


#: What nodes are started with: wishes for a release wait no longer than this.
SETTINGS = ["infer.request_timeout=2s"]


@dataclass(frozen=True, slots=True)
class Client:
    """One client. ``commands`` makes what to run of the folder of its programs and the nodes."""

    commands: Callable[[Path, Urls], Sequence[Command]]
    jobs: Sequence[str]
    in_suite: bool = False
    """Its environment is made in seconds, so the tests may make it."""
    shown: str = r".+"
    """Of what a program printed, the last piece like this tells what was done."""
    own: bool = True
    """False: it is in the environment of the tests."""


def version(name: str) -> str:
    """The version that is pinned, or that of the tests' environment."""
    if not pins(name).is_file():
        from importlib import metadata

        return metadata.version(name)
    found = re.search(rf"^{re.escape(name)}==(\S+)$", pins(name).read_text(), re.MULTILINE)
    assert found is not None, f"{pins(name)} does not name {name}"
    return found[1]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one client."""

    passed: bool
    text: str
    """What was done, or all that its programs said when one failed."""


def try_client(name: str, urls: Urls, pip_s: float | None, run_s: float) -> Outcome:
    """Ask the nodes with it; raises ``NotInstalled``."""
    client = CLIENTS[name]
    folder = _programs(name, pip_s) if client.own else Path(sys.executable).parent
    done = []
    for command in client.commands(folder, urls):
        try:
            with tempfile.TemporaryDirectory() as here:  # some leave things where they run
                ran = subprocess.run(
                    [str(word) for word in command],
                    cwd=here,
                    capture_output=True,
                    text=True,
                    timeout=run_s,
                    env=_environment(),
                )
        except subprocess.TimeoutExpired:
            return Outcome(False, f"it went on for {run_s:g} s")
        if ran.returncode:
            return Outcome(False, f"status {ran.returncode}\n{ran.stdout}\n{ran.stderr}".strip())
        done += re.findall(client.shown, ran.stdout)[-1:]
    return Outcome(True, "; ".join(done))


def _programs(name: str, pip_s: float | None) -> Path:
    given = os.environ.get(name.replace("-", "_").upper())
    return Path(given).parent if given else environment(name, pip_s)


def _environment() -> dict[str, str]:
    # PYTHONPATH would let a client see the packages of this repository and of its tests.
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def _program(name: str, *jobs: str) -> Callable[[Path, Urls], Sequence[Command]]:
    return lambda folder, urls: [
        [folder / "python", HERE / "programs" / name, *(urls[job] for job in jobs)]
    ]


def _perf_analyzer(folder: Path, urls: Urls) -> Sequence[Command]:
    at = urls["fashion-mnist"].removeprefix("http://")
    analyzer = [folder / "perf_analyzer", "-m", "fashion-mnist", "-u", at, "-i", "http"]
    return [
        [*analyzer, "--concurrency-range", "4", "--request-count", "200", *more]
        for more in (["-b", "2"], ["--input-tensor-format", "json"], ["--async"])
    ]


def _schemathesis(folder: Path, urls: Urls) -> Sequence[Command]:
    schemathesis = [folder / "schemathesis", "--config-file", HERE / "schemathesis.toml", "run"]
    schemathesis += ["--no-color", "-n", "30", "--max-failures", "20"]
    schemathesis += ["--exclude-path", "/gradmq/v1/events"]  # goes on until the node ends
    return [[*schemathesis, f"{urls[job]}/openapi.json"] for job in ("fashion-mnist", "lm")]


BOTH = (ECHO, "fashion-mnist")

CLIENTS: Mapping[str, Client] = {
    "tritonclient": Client(_program("tritonclient_http.py", *BOTH), BOTH, in_suite=True),
    "kserve": Client(_program("kserve_rest.py", *BOTH), BOTH),
    "openai": Client(_program("openai_sdk.py", "lm"), ["lm"], own=False),
    "perf-analyzer": Client(_perf_analyzer, ["fashion-mnist"], shown="throughput.*"),
    "schemathesis": Client(_schemathesis, ["fashion-mnist", "lm"], shown=r"\d+ generated.*"),
}
