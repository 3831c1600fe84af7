"""What becomes of one push: applied, or rejected with a reason; pure.

The decision falls here, at once, and never waits for another worker. Whose turn it is, and whether
the push was decided before, is the shard's to know.
"""

from __future__ import annotations

from collections.abc import Sequence

from gradmq.errors import RemoteProtocolError
from gradmq.layout import Layout, Run
from gradmq.ps.lineage import Lineage
from gradmq.ps.optim import Vector
from gradmq.ps.parameters import Damaged, Gradient, NormAboveLimit, NotFinite, Parameters
from gradmq.ps.policy import Policy
from gradmq.wire.codec import array_payload, check_size, payload_chunks
from gradmq.wire.messages import Payload, Push, Verdict, Version


class Judge:
    """Of the pushes of one shard; changes its parameters where it says so."""

    def __init__(
        self, layout: Layout, index: int, policy: Policy, parameters: Parameters, lineage: Lineage
    ) -> None:
        self._layout = layout
        self._index = index
        self._policy = policy
        self._parameters = parameters
        self._lineage = lineage

    def decide(self, push: Push, slots: Sequence[Vector]) -> tuple[Verdict, int]:
        """The verdict, and how many elements were looked at for it.

        Applied, it names the version that was made; or none, where the push holds nothing for this
        shard and so made none.
        """
        version = self._parameters.version
        present = (self._lineage.incarnation, version or 0)
        wrong_base = self._lineage.wrong_base(push.base, version)
        if wrong_base:
            # It names a version: the worker goes on once it holds parameters that do count.
            return rejected(push, wrong_base, present), 0
        assert version is not None
        staleness = version - push.base[1]
        try:
            runs, elements = self._runs_of(push)
            gradient = _opened(push, elements, slots)
            if not runs:
                verdict = Verdict(seq=push.seq, outcome="applied", staleness=staleness)
                return verdict, 0
            admission = self._policy.admit(staleness)
            if not admission.apply:
                return rejected(push, "stale", present, staleness), elements
            self._parameters.apply(gradient, runs, admission.weight)
        except RemoteProtocolError:
            return rejected(push, "malformed"), 0
        except Damaged:
            return rejected(push, "damaged"), elements
        except NotFinite:
            return rejected(push, "nonfinite"), elements
        except NormAboveLimit:
            return rejected(push, "norm"), elements
        verdict = Verdict(
            seq=push.seq,
            outcome="applied",
            version=(self._lineage.incarnation, version + 1),
            weight=admission.weight,
            staleness=staleness,
        )
        return verdict, elements

    def _runs_of(self, push: Push) -> tuple[list[Run], int]:
        """Where the push's elements belong, and how many there must be."""
        if push.layout != self._layout.hash:
            raise RemoteProtocolError(f"layout {push.layout}, this run has {self._layout.hash}")
        return self._layout.runs(self._index, push.present)


def rejected(
    push: Push, reason: str, version: Version | None = None, staleness: int = 0
) -> Verdict:
    """The verdict that says so."""
    return Verdict(
        seq=push.seq, outcome="rejected", reason=reason, version=version, staleness=staleness
    )


def payload_of(push: Push, slots: Sequence[Vector], elements: int) -> Payload:
    """For the journal. What lies in a slot stays there until the worker has the verdict."""
    return push.payload if push.slot is None else array_payload(slots[push.slot][:elements])


def _opened(push: Push, elements: int, slots: Sequence[Vector]) -> Gradient:
    """The payload where it lies: behind the header, or in the session's segment."""
    if push.slot is None:
        check_size(push.payload, elements, push.codec)
        if elements == 0 and push.crc != 0:
            raise Damaged
        return Gradient(payload_chunks(push.payload), push.crc)
    if push.slot >= len(slots) or push.payload or push.codec != "f32":
        raise RemoteProtocolError(f"slot {push.slot} where {len(slots)} are open")
    return Gradient((slots[push.slot][:elements],), None)
