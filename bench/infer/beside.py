"""What does a node answer beside two workers that would take every core? A whole run."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradmq.bench.crew import Crew
from gradmq.bench.echo import STEP_S
from gradmq.bench.figures import ratio
from gradmq.bench.infer import models, servers
from gradmq.bench.infer.load import Figures, clients
from gradmq.bench.infer.nodes import Server
from gradmq.errors import WaitTimeout
from gradmq.observer import Observer

#: Of updates without requests, before and after them.
REST_S = 2.0

_LOOK_EVERY_S = 0.1


@dataclass
class Beside:
    """A node of a run whose workers compute all the time."""

    clients: int
    settings: Mapping[str, object]
    """Those of the run that are not the defaults."""
    figures: Figures = field(default_factory=Figures)
    updates_per_s: float = 0.0
    """Of the workers, beside the requests."""
    updates_per_s_alone: float = 0.0
    releases: int = 0

    def as_json(self) -> dict[str, Any]:
        return {
            "clients": self.clients,
            "settings": dict(self.settings),
            **self.figures.as_json(),
            "updates_per_s": self.updates_per_s,
            "updates_per_s_alone": self.updates_per_s_alone,
            "updates_kept": ratio(self.updates_per_s, self.updates_per_s_alone),
            "releases": self.releases,
            "right": self.figures.right,
        }


def measure(seconds: float, count: int, settings: Mapping[str, object]) -> Beside:
    """One run with two workers and a node; what answers is what has been learned by then."""
    found = Beside(count, settings)
    with _run(settings) as observer:
        status = _wait(observer, _is_at_work)
        server = Server(status["infer"][0]["url"], status["infer"][0]["pid"])
        asked = [servers.ask(server.host, one) for one in servers.pictures(servers.REQUESTS)]
        with clients(server, count, asked, {"finite": models.OUTPUTS}) as load:
            rest = [_updates_per_s(observer, lambda: time.sleep(REST_S))]
            found.updates_per_s = _updates_per_s(
                observer, lambda: load.window(found.figures, seconds)
            )
            rest.append(_updates_per_s(observer, lambda: time.sleep(REST_S)))
        found.updates_per_s_alone = sum(rest) / len(rest)
        found.releases = observer.status()["release"]["number"]
    return found


@contextmanager
def _run(settings: Mapping[str, object]) -> Iterator[Observer]:
    with tempfile.TemporaryDirectory(prefix="gradmq-") as folder, Crew() as crew:
        job = models.write_job(Path(folder), "mlp()")
        spec = {"folder": folder, "job": str(job), "settings": dict(settings)}
        crew.start("run", "gradmq.bench.infer.whole_run", spec)
        (said,) = crew.expect("up", STEP_S)
        with Observer(said["address"]) as observer:
            yield observer
        crew.tell("leave")
        crew.end(STEP_S)


def _is_at_work(status: Mapping[str, Any]) -> bool:
    nodes = status["infer"]
    steps = [worker["applied"] for worker in status["workers"]]
    return bool(nodes and nodes[0].get("release") and len(steps) == 2 and min(steps) > 0)


def _wait(observer: Observer, is_so: Callable[[Mapping[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + STEP_S
    while not is_so(status := observer.status(STEP_S)):
        if time.monotonic() > deadline:
            raise WaitTimeout(f"waited {STEP_S:g} s for two workers and a node to be at work")
        time.sleep(_LOOK_EVERY_S)
    return status


def _updates_per_s(observer: Observer, meanwhile: Callable[[], None]) -> float:
    """Of the shard; it tells its version twice a second, so short stretches are inexact."""
    before, begun = _version(observer), time.monotonic()
    meanwhile()
    return ratio(_version(observer) - before, time.monotonic() - begun)


def _version(observer: Observer) -> int:
    return int(observer.status(STEP_S)["shards"][0]["version"])
