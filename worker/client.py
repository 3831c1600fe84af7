"""The public Worker: gradients out, parameters in, in any program."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradmq.binding import ArrayBinding, Gradients
from gradmq.errors import BrokerAway, Closed, DrainTimeout, JobError, ShardAway
from gradmq.layout import Layout
from gradmq.models import bound
from gradmq.security.keys import load_identity, why_silent
from gradmq.wire.messages import Version
from gradmq.worker.absence import Absence
from gradmq.worker.installer import Installer
from gradmq.worker.node import WorkerThread
from gradmq.worker.pusher import Pusher
from gradmq.worker.session import Answered
from gradmq.worker.tally import Tally, WorkerStatistics

if TYPE_CHECKING:
    import torch

    from gradmq.torch_binding import TorchBinding
    from gradmq.worker.torch_optimizer import PushOptimizer

log = logging.getLogger(__name__)

#: ``close`` waits this long for verdicts, and as long again for the thread.
CLOSE_S = 5.0


@dataclass(frozen=True, slots=True)
class Step:
    """What one ``Worker.step`` did."""

    seq: int | None
    """The push's number in its session; None if the gradient was not finite and was skipped."""
    verdicts: tuple[Answered, ...]
    """Answers that arrived since the last call, oldest first; not always this push's."""
    versions: tuple[Version, ...]
    """(incarnation, version) of every shard as now installed in the model."""
    waited_s: float
    waited_for: str
    """Who was waited for last; "" if nobody."""


class PushHandle:
    """One push made with ``Worker.push``; its verdict arrives later."""

    def __init__(self, worker: Worker, session: int, seq: int) -> None:
        self.session = session
        self.seq = seq
        self._worker = worker
        self._answer: Answered | None = None

    def verdict(self, timeout: float = 60.0) -> Answered:
        """The shards' answer; raises ShardAway if it has not come after ``timeout`` seconds."""
        if self._answer is None:
            self._worker._wait(lambda: self._answer is not None, timeout, "verdict")
        assert self._answer is not None
        return self._answer

    def _take(self, answer: Answered) -> None:
        self._answer = answer


class Worker:
    """Pushes gradients of a model and installs the run's newest parameters in it.

    ``model`` is a torch module, or a dict of numpy float32 arrays. All methods belong to one
    thread, the one that computes on the model: parameters change only inside ``open``, ``step``,
    ``catch_up``, ``pull`` and ``reinstall``. The network has a thread of its own. A worker that is
    dropped, or whose program ends, leaves the run; only ``close`` waits for verdicts. After a fork
    the child's copy raises Closed.

    ``max_in_flight`` pushes may be under way; with 1, each step waits for parameters that hold its
    own gradient: sequential SGD. Memory: one gradient per push under way, one or two models.
    """

    def __init__(
        self,
        model: torch.nn.Module | Mapping[str, npt.NDArray[Any]],
        address: str,
        name: str | None = None,
        max_in_flight: int = 2,
        timeout: float = 30.0,
        *,
        keys: Path | str | None = None,
        report: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        """``report`` adds to what the broker's status shows of this member.

        ``keys``: in a run with keys, the file with this worker's, whose name it then has; or the
        folder with those of all, and ``name``. Raises SettingsError.
        """
        if max_in_flight < 1:
            raise JobError(f"max_in_flight is {max_in_flight}; it must be at least 1")
        binding = self._binding = bound(model)
        self._address = address
        self._timeout_s = timeout
        self._more_report = report
        identity = load_identity(keys, name or "", "worker")
        self._io = WorkerThread(
            address,
            identity.name if identity else name or "",
            self._binding.tensors,
            max_in_flight,
            initial=lambda layout: Gradients(layout, binding.read()),
            report=self._report,
            identity=identity,
        )
        self._tally = Tally(time.monotonic())
        self._installer = Installer(binding, self._io)
        self._pusher = Pusher(self._io, self._installer, self._tally)
        self._opened = False
        self._owner_pid = os.getpid()
        self._absence = Absence()

    # -- life -------------------------------------------------------------------------------------

    def __enter__(self) -> Worker:
        return self.open()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(timeout=CLOSE_S if kind is None else 0.0)

    def open(self, stopped: Callable[[], bool] = lambda: False) -> Worker:
        """Join the run and install its parameters; gives up, closed, if ``stopped`` says so.

        Raises BrokerAway or ShardAway after the ``timeout`` given at construction, LayoutMismatch
        or JoinRefused if this model or worker does not belong to the run.
        """
        self._require_unopened()
        self._opened = True
        self._io.start_for(self)
        try:
            self._wait(lambda: self._has_joined() or stopped(), self._timeout_s, "join")
            if not self._has_joined():
                self.close(timeout=0.0)
                return self
            self._install()
        except BaseException:
            self.close(timeout=0.0)
            raise
        return self

    def close(self, timeout: float = CLOSE_S) -> None:
        """Wait up to ``timeout`` seconds for verdicts, leave the run, close every socket."""
        if not self._opened or self._owner_pid != os.getpid():
            return
        self._opened = False
        if timeout and self._io.error is None:
            with self._io.lock:
                self._io.lock.wait_for(
                    lambda: self._io.error is not None or self._pusher.is_drained(), timeout
                )
                session = self._io.session
                if session is not None and session.unanswered:
                    log.warning("closed with pushes unanswered: %s", list(session.unanswered))
        self._io.stop(CLOSE_S)

    # -- training ---------------------------------------------------------------------------------

    def step(
        self, loss: torch.Tensor | float | None = None, samples: int = 0, timeout: float = 60.0
    ) -> Step:
        """Push what ``backward`` left in ``.grad``, clear it, install the freshest parameters.

        ``loss`` and ``samples`` are for the run's figures. A gradient that is not finite is not
        pushed (GradScaler makes them by design); the step then says ``seq=None``. Raises ShardAway,
        naming who is waited for, if the window is still full after ``timeout`` seconds: the push is
        under way all the same, and ``catch_up`` goes on waiting. Called before that is over, it
        raises ShardAway without a push, and ``.grad`` stays.
        """
        binding = self._require_torch()
        gradients = Gradients(self._layout, binding.gradients())
        started = time.monotonic()
        pushed = self._push(gradients, self._last_loss_of(loss), samples, timeout)
        binding.clear_gradients()
        if pushed is None:
            self._tally.skipped_nonfinite += 1
            return self._stepped(None, started, "")
        _, seq = pushed
        waited_for = self._wait(self._pusher.has_room, timeout, "step")
        return self._stepped(seq, started, waited_for)

    def catch_up(self, timeout: float = 60.0) -> Step:
        """Wait until the window has room and install the freshest parameters; pushes nothing.

        What is left to do after ``step`` raised ShardAway. Raises ShardAway like it.
        """
        started = time.monotonic()
        return self._stepped(None, started, self._wait(self._pusher.has_room, timeout, "step"))

    def push(
        self,
        gradients: Mapping[str, Any],
        loss: float | None = None,
        samples: int = 0,
        timeout: float = 60.0,
    ) -> PushHandle:
        """Push gradients given by tensor name: numpy arrays or torch tensors; absent ones stay.

        Waits up to ``timeout`` seconds for room in the window, then raises ShardAway. Installs
        nothing. Raises LayoutMismatch for an unknown name or a wrong shape, JobError for a
        gradient that is not finite.
        """
        self._require_open()
        cut = Gradients(self._layout, self._binding.named(gradients))
        pushed = self._push(cut, self._last_loss_of(loss), samples, timeout)
        if pushed is None:
            raise JobError("the gradient holds NaN or infinity; it was not pushed")
        session, seq = pushed
        handle = PushHandle(self, session, seq)
        self._pusher.once_answered(session, seq, handle._take)
        return handle

    def gradient_views(self, timeout: float = 60.0) -> dict[str, npt.NDArray[np.float32]]:
        """The memory that the next push is sent from, by tensor name: for those that write there.

        A gradient that ``push`` or ``step`` finds in its view already is not copied; with torch,
        let ``torch.from_numpy(view)`` be a parameter's ``.grad``. What the views hold is undefined,
        and they are good for one push: ask again after it. Tensors that lie in two shards have
        none.
        Waits up to ``timeout`` seconds for room in the window, then raises ShardAway.
        """
        self._wait(self._pusher.has_room, timeout, "push")
        return self._pusher.views()

    def pull(self, timeout: float = 5.0) -> tuple[Version, ...]:
        """Install the newest parameters that every shard has now; returns their versions.

        Raises ShardAway if a shard has not answered after ``timeout`` seconds.
        """
        self._require_open()
        with self._io.lock:
            self._io.fetch_asked = self._io.pulling = True
        self._io.wake()
        try:
            self._wait(self._has_fetched, timeout, "pull")
        finally:
            self._io.pulling = False
        self.reinstall()
        return self._installer.versions

    def reinstall(self) -> None:
        """Install what this worker has once more: the program wrote into the model meanwhile.

        Asks nobody, so never waits; ``step`` installs only what is newer than the model's.
        """
        self._require_open()
        self._installer.versions = ()
        self._install()

    def drain(self, timeout: float = 5.0) -> tuple[Answered, ...]:
        """Wait for all verdicts and return those not returned before.

        Raises DrainTimeout, whose ``unanswered`` lists the seqs, after ``timeout`` seconds.
        """
        self._require_open()
        with self._io.lock:
            if not self._io.wait_for(self._pusher.is_drained, timeout):
                session = self._io.session
                unanswered = session.unanswered if session else ()
                raise DrainTimeout(
                    f"no verdict on pushes {list(unanswered)} within {timeout:g} s; "
                    f"waited for {self._io.waiting_for()}",
                    unanswered,
                )
        return self._pusher.take_answers()

    def optimizer(self, samples_per_step: int = 1, timeout: float = 60.0) -> PushOptimizer:
        """An optimizer whose ``step()`` is this worker's; loops written for torch run unchanged.

        ``samples_per_step`` is for the run's figures: give the batch size, or this worker's share
        is that of its steps. ``timeout`` is that of each step, in seconds. The learning rate and
        the like are shown for schedulers to read; those that count are the server's.
        """
        self._require_open()
        binding = self._require_torch()
        from gradmq.worker.torch_optimizer import PushOptimizer

        assert self._io.welcome is not None
        shown = {k: v for k, v in self._io.welcome.settings["optimizer"].items() if k != "name"}
        return PushOptimizer(self, binding.parameters, shown, samples_per_step, timeout)

    # -- what can be looked at --------------------------------------------------------------------

    @property
    def name(self) -> str:
        """This worker's name in the run; the broker chose it if none was given."""
        return self._io.worker_name

    @property
    def session(self) -> int:
        """This worker's present session; a new one after a fence."""
        return self._io.session.session if self._io.session else 0

    @property
    def stopping(self) -> bool:
        """True once the run asks its workers to finish."""
        self._require_owner()  # in a child the lock may be held for ever
        with self._io.lock:
            return self._io.draining

    @property
    def versions(self) -> tuple[Version, ...]:
        """(incarnation, version) of every shard as installed in the model."""
        return self._installer.versions

    def parameters(self) -> dict[str, npt.NDArray[np.float32]]:
        """Copies of the model's present values, by name."""
        values = self._binding.read()
        return {
            tensor.name: np.array(values[row]).reshape(tensor.shape)
            for row, tensor in enumerate(self._binding.tensors)
        }

    def statistics(self) -> WorkerStatistics:
        """What this worker has counted until now; from any thread of its process."""
        self._require_owner()
        tally = self._tally
        with self._io.lock:
            session = self._io.session
            return WorkerStatistics(
                session=session.session if session else 0,
                pushes=tally.pushes,
                samples=tally.samples,
                skipped_nonfinite=tally.skipped_nonfinite,
                in_flight=session.in_flight if session else 0,
                max_in_flight=session.max_in_flight if session else 0,
                verdicts=dict(tally.verdicts),
                waited_s=dict(tally.waited_s),
                installed_after=tally.installed_after,
                torn_reads=self._installer.torn_reads,
                loss=tally.loss,
                quarantined=self._io.quarantined,
            )

    # -- inside -----------------------------------------------------------------------------------

    @property
    def _layout(self) -> Layout:
        self._require_open()
        assert self._io.layout is not None
        return self._io.layout

    def _stepped(self, seq: int | None, started: float, waited_for: str) -> Step:
        waited_s = time.monotonic() - started
        self._install()
        return Step(
            seq, self._pusher.take_answers(), self._installer.versions, waited_s, waited_for
        )

    def _last_loss_of(self, loss: torch.Tensor | float | None) -> float | None:
        """The loss as a number; kept for the status if there is one, which not every step has."""
        number = _number(loss)
        if number is not None:
            self._tally.loss = number
        return number

    def _push(
        self, gradients: Gradients, loss: float | None, samples: int, timeout_s: float
    ) -> tuple[int, int] | None:
        """(session, seq) of the push; None if the gradient is not finite, and was not pushed."""
        return self._pusher.push(
            gradients, loss, samples, lambda ready: self._wait(ready, timeout_s, "push")
        )

    def _has_joined(self) -> bool:
        return self._io.replica is not None and self._io.replica.complete

    def _has_fetched(self) -> bool:
        replica = self._io.replica
        return replica is not None and not self._io.fetch_asked and not replica.fetching

    def _wait(self, ready: Callable[[], bool], timeout_s: float, what: str) -> str:
        """Wait for ``ready``; returns for whom, raises BrokerAway or ShardAway at the deadline."""
        self._require_open()
        self._absence.end(time.monotonic())
        try:
            return self._wait_here(ready, timeout_s, what)
        finally:
            self._absence.begin(time.monotonic())

    def _wait_here(self, ready: Callable[[], bool], timeout_s: float, what: str) -> str:
        with self._io.lock:
            ready_now = self._collect_and(ready)
            if ready_now():
                return ""
            waiting_for = self._io.waiting_for()
            began = time.monotonic()
            try:
                is_over = self._io.wait_for(ready_now, timeout_s)
            finally:
                self._tally.waited_s[what] += time.monotonic() - began
            if is_over:
                return waiting_for
            waiting_for = self._io.waiting_for()
            if self._io.welcome is None:
                raise BrokerAway(
                    f"broker {self._address} did not answer within {timeout_s:g} s; "
                    f"{why_silent(self._io.identity)}; `gradmq broker` starts one"
                )
            raise ShardAway(f"{what} waited {timeout_s:g} s for {waiting_for}")

    def _collect_and(self, ready: Callable[[], bool]) -> Callable[[], bool]:
        def check() -> bool:
            self._pusher.collect()
            return ready()

        return check

    def _install(self) -> None:
        """Raises ShardAway if parameters cannot be read whole: then nothing is pushed."""
        self._installer.install(lambda ready: self._wait(ready, self._timeout_s, "fetch"))
        if self._tally.has_landing:
            with self._io.lock:
                self._tally.installed(self._installer.versions, time.monotonic())

    def _report(self) -> dict[str, Any]:
        """For the broker's status; called by the network thread, with the lock held."""
        now = time.monotonic()
        session = self._io.session
        return {
            "seq": session.last_seq if session else 0,
            "samples_per_s": self._tally.samples_per_s(now),
            "loss": self._tally.loss,
            "skipped_nonfinite": self._tally.skipped_nonfinite,
            "transport": self._io.transport,
            "torn_reads": self._installer.torn_reads,
            "waiting_for": self._io.waiting_for() or self._absence.waiting_for(now),
            **self._more_report(),
        }

    def __deepcopy__(self, memo: dict[int, Any]) -> Worker:
        """A model that holds its worker may be copied; the copy shares the one connection."""
        return self

    def __getstate__(self) -> object:
        raise JobError("a Worker cannot be pickled: let every process make its own")

    def _require_owner(self) -> None:
        if self._owner_pid != os.getpid():
            raise Closed("this worker belongs to the process that made it; make one after the fork")

    def _require_unopened(self) -> None:
        self._require_owner()
        if self._opened:
            raise Closed("this worker is open already")
        if self._io.ident is not None:
            raise Closed("this worker was closed: make a new one")

    def _require_open(self) -> None:
        self._require_owner()
        if not self._opened:
            raise Closed("this worker is not open: use `with Worker(...)`, or open() it first")

    def _require_torch(self) -> TorchBinding:
        if isinstance(self._binding, ArrayBinding):
            raise JobError("arrays have no .grad: give their gradients to push()")
        return self._binding


def _number(loss: torch.Tensor | float | None) -> float | None:
    return None if loss is None else float(getattr(loss, "detach", lambda: loss)())
