"""Takes a worker's gradients to the network's thread, and its shards' verdicts from there."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from gradmq.binding import Gradients
from gradmq.errors import ShardAway
from gradmq.wire.codec import array_payload
from gradmq.worker.installer import Installer
from gradmq.worker.node import WorkerThread
from gradmq.worker.session import Answered
from gradmq.worker.tally import Tally


class Pusher:
    """Belongs to the thread that computes on the model."""

    def __init__(self, io: WorkerThread, installer: Installer, tally: Tally) -> None:
        self._io = io
        self._installer = installer
        self._tally = tally
        self._slot = 0
        """Of the last push, or of ``views``: where the next one goes if it can."""
        self._awaited: dict[tuple[int, int], Callable[[Answered], None]] = {}
        self._untaken: list[Answered] = []

    def has_room(self) -> bool:
        """True if the window takes another push, so that the next gradient may be computed."""
        session = self._io.session
        return session is not None and session.has_room

    def is_drained(self) -> bool:
        """True if no push waits for a verdict."""
        return self._io.session is None or not self._io.session.unanswered

    def views(self) -> dict[str, npt.NDArray[np.float32]]:
        """The memory that the next push is sent from, by tensor name; there is room for it."""
        with self._io.lock:
            session, slots = self._io.session, self._io.slots
            assert session is not None and slots is not None
            self._slot = session.free_slot(self._slot)
        layout = self._io.layout
        assert layout is not None
        out = {}
        for part, vector in zip(layout.parts, slots.of(self._slot), strict=True):
            for piece in part.pieces:
                tensor = layout.tensors[piece.tensor]
                if piece.size == tensor.size:
                    view = vector[piece.offset : piece.offset + piece.size]
                    out[tensor.name] = view.reshape(tensor.shape)
        return out

    def push(
        self,
        gradients: Gradients,
        loss: float | None,
        samples: int,
        wait_for: Callable[[Callable[[], bool]], object],
    ) -> tuple[int, int] | None:
        """Write the gradient into a free slot and push it from there: (session, seq).

        None if it is not finite: then nothing was pushed. Raises what ``wait_for`` raises, which
        waits for room in the window, and ShardAway if the model holds no whole parameters.
        """
        while True:
            wait_for(self.has_room)
            if not self._installer.versions:
                raise ShardAway("the newest parameters could not be read whole; catch_up() first")
            with self._io.lock:
                session, slots = self._io.session, self._io.slots
                assert session is not None and slots is not None
                slot = self._slot = session.free_slot(self._slot)
                shared = [session.is_shared(i) for i in range(len(gradients.sizes))]
            # Only this thread pushes, so until it does the slot is its own.
            vectors = slots.of(slot)
            crcs = gradients.pack(vectors, [not s for s in shared])
            if crcs is None:
                return None
            sizes = zip(vectors, gradients.sizes, strict=True)
            payloads = [array_payload(vector[:size]) for vector, size in sizes]
            with self._io.lock:
                if self._io.session is not session:
                    continue  # fenced meanwhile; the next session has slots of its own
                now = time.monotonic()
                seq = session.push(
                    self._installer.versions,
                    payloads,
                    [None if s else crc for s, crc in zip(shared, crcs, strict=True)],
                    gradients.present,
                    now,
                    loss,
                    samples,
                    slot,
                )
                self._tally.pushed(session.session, seq, samples, now)
            self._io.wake()
            return session.session, seq

    def once_answered(self, session: int, seq: int, take: Callable[[Answered], None]) -> None:
        """Have the answer to this push given to ``take`` by the ``collect`` that finds it."""
        self._awaited[session, seq] = take

    def collect(self) -> None:
        """Look through what the shards have answered since the last time; the lock is held."""
        for answer in self._io.answered:
            self._tally.answered(answer)
            take = self._awaited.pop((answer.session, answer.seq), None)
            if take is not None:
                take(answer)
        self._untaken += self._io.answered
        self._io.answered = []

    def take_answers(self) -> tuple[Answered, ...]:
        """Those that were not taken before, oldest first."""
        with self._io.lock:
            self.collect()
            answers, self._untaken = tuple(self._untaken), []
        return answers
