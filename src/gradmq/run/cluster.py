"""LocalCluster: a broker and shards on loopback, for tests and notebooks."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradmq.binding import whole_tensors
from gradmq.config import resolve
from gradmq.errors import Closed, ShardAway
from gradmq.models import bound
from gradmq.observer import Observer, fetch_parameters
from gradmq.ps.optim import SGD
from gradmq.ps.policy import Bounded, Unbounded
from gradmq.run.local import prepare_keys, start_broker, start_shard, start_shards
from gradmq.run.release_zero import write_release_0
from gradmq.run.roles import RoleProcess, end_all
from gradmq.security.keys import load_operator
from gradmq.wire.codec import payload_chunks
from gradmq.wire.messages import Version

if TYPE_CHECKING:
    import torch

READY_S = 30.0


class LocalCluster:
    """A broker and ``shards`` parameter servers, as real processes that end with this one.

    ``model`` (a torch module, or a dict of numpy float32 arrays) gives the first parameters and is
    not changed. ``settings`` takes any setting by its dotted key; with ``network.keys`` the shards'
    keys are made in that folder, if they are not there. Raises RoleFailed or ShardAway if the
    processes do not come up. Everything is kept in a temporary folder, which goes at the
    end, unless ``folder`` names another. For one thread. It closes when it is dropped or the
    program ends, if not before; after a fork the child's copy raises Closed.
    """

    def __init__(
        self,
        model: torch.nn.Module | Mapping[str, npt.NDArray[Any]],
        shards: int = 1,
        optimizer: SGD | None = None,
        staleness: Bounded | Unbounded | None = None,
        settings: Mapping[str, Any] | None = None,
        folder: Path | str | None = None,
    ) -> None:
        self._model = model
        self._shards = shards
        self._settings = {
            **{f"optimizer.{k}": v for k, v in (optimizer or SGD(lr=0.1)).settings().items()},
            **{f"staleness.{k}": v for k, v in (staleness or Bounded(8)).settings().items()},
            **(settings or {}),
        }
        self._folder = None if folder is None else Path(folder)
        self._ending: weakref.finalize[..., LocalCluster] | None = None
        self._owner_pid = os.getpid()
        self._roles: dict[str, RoleProcess] = {}
        self._address = ""

    def __enter__(self) -> LocalCluster:
        return self.open()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def open(self) -> LocalCluster:
        """Start everything and wait until gradients can be pushed."""
        self._require_owner()
        if self._roles:
            raise Closed("this cluster is open already")
        self._state = self._folder or Path(tempfile.mkdtemp(prefix="gradmq-"))
        temporary = None if self._folder else self._state
        self._ending = weakref.finalize(self, _end, self._roles, temporary, self._owner_pid)
        try:
            self._start(self._state)
        except BaseException:
            self.close()
            raise
        return self

    def _start(self, folder: Path) -> None:
        settings = resolve({}, None, {}, {**self._settings, "run.shards": self._shards})
        self._keys, self._metrics = settings.network.keys, settings.metrics
        prepare_keys(self._keys, shards=self._shards)
        self._settings_file = folder / "settings.toml"
        folder.mkdir(parents=True, exist_ok=True)
        self._settings_file.write_text(settings.to_toml())
        binding = bound(self._model)
        self._layout = write_release_0(folder / "checkpoints", "local", binding, self._shards)
        self._roles["broker"], self._address = start_broker(
            folder, self._settings_file, "local", settings.network.port
        )
        for role in start_shards(
            folder, self._settings_file, self._address, self._shards, self._metrics
        ):
            self._roles[role.name] = role
        deadline = time.monotonic() + READY_S
        while self.status()["phase"] == "waiting":
            for role in self._roles.values():
                failure = role.failure()
                if failure is not None:
                    raise failure
            if time.monotonic() > deadline:
                raise ShardAway(
                    f"the cluster waited {READY_S:g} s for {self.status()['waiting_for']}"
                )
            time.sleep(0.02)

    def close(self) -> None:
        """End all processes and remove the temporary folder."""
        if self._ending is not None:
            self._ending()

    @property
    def address(self) -> str:
        """What ``Worker`` and ``Follower`` connect to."""
        return self._address

    def status(self) -> dict[str, Any]:
        """The structure of ``gradmq status --json``; raises BrokerAway."""
        self._require_open()
        with Observer(self._address, self._keys) as observer:
            return observer.status()

    def parameters(self, timeout: float = 10.0) -> dict[str, npt.NDArray[np.float32]]:
        """The exact present values by name, float32; raises ShardAway after ``timeout`` seconds."""
        values, _ = self._fetch(timeout)
        return values

    def versions(self, timeout: float = 10.0) -> tuple[Version, ...]:
        """The present (incarnation, version) of every shard."""
        _, versions = self._fetch(timeout)
        return versions

    def pids(self, role: str) -> list[int]:
        """The processes of a role ("broker", "ps"), by index."""
        self._require_open()
        return [process.pid for name, process in self._roles.items() if name.startswith(role)]

    def kill(self, role: str) -> None:
        """``kill -9`` a role ("broker", "ps-0", …), to see what happens."""
        self._require_open()
        self._roles[role].kill()
        self._roles[role].wait(READY_S)

    def restart_shard(self, index: int) -> None:
        """Start a shard again, with the same command."""
        self._require_open()
        self._roles.pop(f"ps-{index}").close()
        port = self._metrics.port_after(1 + index)
        role = start_shard(
            self._state, self._settings_file, self._address, index, metrics_port=port
        )
        self._roles[role.name] = role

    def _fetch(
        self, timeout: float
    ) -> tuple[dict[str, npt.NDArray[np.float32]], tuple[Version, ...]]:
        self._require_open()
        identity = load_operator(self._keys)
        publications = fetch_parameters(self.status(), self._layout, timeout, identity)
        chunks = [payload_chunks(publication.payload) for publication in publications]
        vectors = whole_tensors(self._layout, chunks)
        values = {
            tensor.name: np.array(vectors.get(row, ()), np.float32).reshape(tensor.shape)
            for row, tensor in enumerate(self._layout.tensors)
        }
        return values, tuple(publication.version for publication in publications)

    def _require_owner(self) -> None:
        if self._owner_pid != os.getpid():
            raise Closed("this cluster belongs to the process that made it")

    def _require_open(self) -> None:
        self._require_owner()
        if not self._roles:
            raise Closed("this cluster is not open: use `with LocalCluster(...)`, or open() it")


def _end(roles: dict[str, RoleProcess], temporary: Path | None, owner_pid: int) -> None:
    if os.getpid() != owner_pid:
        return
    # Shards first: their goodbyes need a broker.
    end_all([role for name, role in roles.items() if name != "broker"])
    end_all([role for name, role in roles.items() if name == "broker"])
    roles.clear()
    if temporary is not None:
        shutil.rmtree(temporary, ignore_errors=True)
