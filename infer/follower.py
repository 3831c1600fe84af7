"""The public Follower: whole releases of a run, in any program."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from gradmq.binding import ArrayBinding, first_not_finite
from gradmq.errors import BrokerAway, Closed, ShardAway
from gradmq.infer.stream import FollowerThread
from gradmq.layout import Layout
from gradmq.models import bound
from gradmq.replica import Release
from gradmq.security.keys import load_identity, why_silent
from gradmq.wire.messages import Evaluated, Role, Version

if TYPE_CHECKING:
    import torch

    from gradmq.torch_binding import TorchBinding


CLOSE_S = 5.0


@dataclass(frozen=True, slots=True)
class FollowedRelease:
    """A release as a follower has it."""

    number: int
    """Grows with every release; the same for all followers of a run."""
    versions: tuple[Version, ...]
    """(incarnation, version) of every shard."""
    age_s: float
    """Seconds since this follower last heard that this release is the newest."""
    since_applied_s: float | None = None
    """Seconds since a shard applied the last update in it; None if this follower was not there when
    the release closed."""


class TakenRelease:
    """A release out of a follower's hands: its memory is that of whoever holds this."""

    def __init__(
        self,
        about: FollowedRelease,
        release: Release,
        layout: Layout,
        binding: ArrayBinding | TorchBinding,
    ) -> None:
        self.about = about
        """As of when it was taken."""
        self._release = release
        self._layout = layout
        self._binding = binding

    def first_not_finite(self) -> str:
        """The name of a tensor that would hold a value which is not finite; "" if none would."""
        return first_not_finite(self._layout, self._release.chunks)

    def install(self) -> None:
        """Write it into the follower's model; if that fails, the model holds parts of two."""
        self._binding.install(self._layout, self._release.chunks)

    def module(self) -> torch.nn.Module:
        """A new module in eval mode with its values, like the follower's, which is not touched."""
        if isinstance(self._binding, ArrayBinding):
            raise Closed("arrays are no module: use update()")
        return self._binding.with_values(self._layout, self._release.chunks)


class Follower:
    """Follows a run's releases and writes one into its model when asked; read-only for the run.

    ``model`` is a torch module, or a dict of numpy float32 arrays. All methods belong to one
    thread, the one that uses the model; the network has a thread of its own. Memory: beside the
    model given one for the newest release, unless it was taken, and one while the next one comes.
    """

    def __init__(
        self,
        model: torch.nn.Module | Mapping[str, npt.NDArray[Any]],
        address: str,
        name: str | None = None,
        timeout: float = 30.0,
        *,
        keys: Path | str | None = None,
        role: Role = "follower",
        report: Callable[[], Mapping[str, Any]] = dict,
        on_status: Callable[[Mapping[str, Any], float], None] | None = None,
    ) -> None:
        """``report`` adds to what the broker's status shows of this member.

        ``on_status`` is called about once a second in the network's thread, with that status and
        the monotonic time it came at; it must be quick.

        ``keys``: in a run with keys, the file with this follower's (role reader or infer), whose
        name it then has; or the folder with those of all, and ``name``. Raises SettingsError.
        """
        self._binding = bound(model)
        self._address = address
        self._timeout_s = timeout
        self._more_report = report
        self._installed: FollowedRelease | None = None
        identity = load_identity(keys, name or "", "reader", "infer")
        self._io = FollowerThread(
            address,
            role,
            identity.name if identity else name or "",
            self._binding.tensors,
            report=self._report,
            identity=identity,
            on_status=on_status,
        )
        self._opened = False
        self._owner_pid = os.getpid()

    def __enter__(self) -> Follower:
        return self.open()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def open(self, stopped: Callable[[], bool] = lambda: False) -> Follower:
        """Join the run and wait for its first release, or until ``stopped``; installs nothing.

        Raises BrokerAway or ShardAway after the ``timeout`` given at construction, LayoutMismatch
        or JoinRefused if this model does not belong to the run.
        """
        self._require_unopened()
        self._opened = True
        self._io.start_for(self)
        try:
            with self._io.lock:
                if not self._wait(
                    lambda: self._io.newest is not None or stopped(), self._timeout_s
                ):
                    raise self._away("join", self._timeout_s)
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Leave the run and close every socket."""
        if self._opened and self._owner_pid == os.getpid():
            self._opened = False
            self._io.stop(CLOSE_S)

    def update(self, timeout: float = 0.0) -> FollowedRelease:
        """Install the newest complete release; waits up to ``timeout`` seconds for a newer one.

        Returns what is installed now: the same release as before if there is none newer.
        """
        if self._installed is not None and timeout > 0:
            self.wait(self._installed, timeout)
        about = self.newest()
        if self._installed is None or about.number > self._installed.number:
            release = self._in_hand(self._newest())
            release.install()
            about = self._installed = release.about
        return about

    def wait(self, newer_than: FollowedRelease | None = None, timeout: float = 5.0) -> bool:
        """Wait until there is a release newer than this one; False at the deadline."""
        self._require_open()
        number = newer_than.number if newer_than else 0
        with self._io.lock:
            return self._wait(lambda: self._number() > number, timeout)

    def newest(self) -> FollowedRelease:
        """The newest complete release, without installing it."""
        return self._describe(self._newest())

    def module(self) -> tuple[FollowedRelease, torch.nn.Module]:
        """The newest release as a new module in eval mode; the model given is not touched."""
        release = self._newest()
        module = self._in_hand(release).module()
        return self._describe(release), module

    def take(self) -> TakenRelease:
        """The newest release, to be looked at before it is used, or to be used once.

        The follower gives up its memory: raises Closed if this release was taken before.
        """
        release = self._in_hand(self._newest())
        with self._io.lock:
            self._io.let_go(release.about.number)
        return release

    def report_evaluation(self, release: FollowedRelease, metrics: Mapping[str, float]) -> None:
        """Tell the run what this release achieved on held-out data."""
        self._require_open()
        values = {name: float(value) for name, value in metrics.items()}
        with self._io.lock:
            self._io.tell_broker(Evaluated(release=release.number, metrics=values))

    @property
    def stopping(self) -> bool:
        """True once the run asks its workers to finish: the last release is near."""
        self._require_owner()  # in a child the lock may be held for ever
        with self._io.lock:
            return self._io.draining

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the broker told at join: optimizer, staleness, job."""
        self._require_open()
        assert self._io.welcome is not None
        return self._io.welcome.settings

    # -- inside -----------------------------------------------------------------------------------

    def _newest(self) -> Release:
        self._require_open()
        with self._io.lock:
            if self._io.error is not None:
                raise self._io.error
            if self._io.newest is None:
                raise self._away("update", 0.0)
            return self._io.newest

    def _in_hand(self, release: Release) -> TakenRelease:
        assert self._io.layout is not None
        if release.number == self._io.let_go_of:
            raise Closed(f"release {release.number} was taken before: wait() for a newer one")
        return TakenRelease(self._describe(release), release, self._io.layout, self._binding)

    def _number(self) -> int:
        return self._io.newest.number if self._io.newest else 0

    def _describe(self, release: Release) -> FollowedRelease:
        with self._io.lock:
            age_s = self._io.age_s(release.number)
            since_applied_s = self._io.since_applied_s(release.number)
        return FollowedRelease(release.number, release.versions, age_s, since_applied_s)

    def _wait(self, ready: Callable[[], bool], timeout_s: float) -> bool:
        """Wait with the lock held; looks at ``ready`` at least twice a second."""
        return self._io.wait_for(ready, timeout_s)

    def _away(self, what: str, waited_s: float) -> BrokerAway | ShardAway:
        if self._io.welcome is None:
            return BrokerAway(
                f"broker {self._address} did not answer within {waited_s:g} s; "
                f"{why_silent(self._io.identity)}; `gradmq broker` starts one"
            )
        return ShardAway(f"{what} waited {waited_s:g} s for {self._io.waiting_for()}")

    def _report(self) -> dict[str, Any]:
        number = self._number()
        return {
            "release": number,
            "age_s": round(self._io.age_s(number), 3) if number else None,
            "waiting_for": self._io.waiting_for(),
            **self._more_report(),
        }

    def _require_owner(self) -> None:
        if self._owner_pid != os.getpid():
            raise Closed("this follower belongs to the process that made it; make one after a fork")

    def _require_unopened(self) -> None:
        self._require_owner()
        if self._opened:
            raise Closed("this follower is open already")
        if self._io.ident is not None:
            raise Closed("this follower was closed: make a new one")

    def _require_open(self) -> None:
        self._require_owner()
        if not self._opened:
            raise Closed("this follower is not open: use `with Follower(...)`, or open() it first")
