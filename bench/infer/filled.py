"""A run whose model is filled with its version, and requests that ask it for that."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gradmq.bench.crew import Crew
from gradmq.bench.echo import STEP_S
from gradmq.bench.infer import models, requests
from gradmq.bench.infer.nodes import Server, node
from gradmq.bench.workload import Arrays
from gradmq.ps.optim import SGD
from gradmq.run.cluster import LocalCluster

PATH = "/v2/models/filled/infer"
BODY = requests.infer_json("x", "FP32", (1, 1), [0.0])

#: With gradients of -1 each update adds 1 to every parameter; float32 counts to 2**24.
LR = 1.0

#: Releases that are not asked for are made so seldom that there are none.
NEVER_S = 86_400


def arrays(mb: float) -> Arrays:
    """The parameters of ``models.filled_module``, by name."""
    size = max(1, round(mb * 1e6 / 4 / models.TENSORS))
    return {f"tensors.{row}": np.zeros(size, np.float32) for row in range(models.TENSORS)}


@dataclass(frozen=True)
class Run:
    """A cluster with one worker that pushes when told, and a node that follows it."""

    node: Server
    pusher: Crew

    def swaps(self) -> int:
        """How often a release has taken the place of another on the node."""
        return round(self.node.metric("gradmq_swaps_total"))


@contextmanager
def running(
    mb: float, every: int, transport: str = "auto", release_every_s: float = NEVER_S
) -> Iterator[Run]:
    """Everything on processes of its own; ``every`` as in ``models.filled``."""
    settings = {"network.transport": transport, "run.release_every": release_every_s}
    with (
        tempfile.TemporaryDirectory(prefix="gradmq-") as name,
        LocalCluster(arrays(mb), optimizer=SGD(lr=LR), settings=settings) as cluster,
        Crew() as crew,
        _following(Path(name), f"filled({mb!r}, {every})", cluster.address) as server,
    ):
        crew.start("pusher", "gradmq.bench.infer.pusher", {"mb": mb, "address": cluster.address})
        crew.expect("up", STEP_S)
        yield Run(server, crew)
        crew.tell("leave")


def _following(folder: Path, call: str, address: str) -> AbstractContextManager[Server]:
    return node(folder, models.write_job(folder, call), broker=address)
