"""What a shard shows to Prometheus; all of it is known already, and only added up here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

from gradmq.exposition import Family, Histogram, Stage, histogram, one, summary
from gradmq.ps.journal.writer import JournalWriter
from gradmq.ps.listeners import Listeners
from gradmq.ps.saving import Saving
from gradmq.ps.shard import Shard

#: Shown with 0 too: what was never there has no rate.
REJECTIONS = ("stale", "future", "lost_base", "malformed", "damaged", "nonfinite", "norm",
              "quarantined")  # fmt: skip

_STALENESS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)


def families(
    index: int,
    shard: Shard | None,
    listeners: Listeners | None,
    saving: Saving,
    journal: JournalWriter | None,
    pushes: Stage,
    now: float,
) -> Iterator[Family]:
    """As of now; ``pushes``: how long it took to receive and decide them. Of the shard's thread."""
    label = str(index)
    text = "1 once there are parameters."
    yield one("gradmq_shard_ready", "gauge", text, bool(shard and shard.ready), shard=label)
    if shard is None or listeners is None:
        return
    yield from _state(shard, label, now)
    yield from _pushes(shard, pushes, {"shard": label})
    yield from _publications(shard, listeners, label)
    yield from _disk(shard, saving, journal, {"shard": label}, now)
    yield from listeners.memory.families(shard=label)


def _state(shard: Shard, label: str, now: float) -> Iterator[Family]:
    found: dict[str, Any] = shard.report(now)

    def gauge(name: str, text: str, value: float) -> Family:
        return one(f"gradmq_shard_{name}", "gauge", text, value, shard=label)

    yield gauge("incarnation", "Its life: grows with every start.", shard.incarnation)
    yield gauge("version", "Updates applied, over all its lives.", shard.version[1])
    yield gauge("release", "The newest release it has labelled.", shard.release)
    yield gauge("parameter_bytes", "Bytes of its parameters.", shard.part.nbytes)
    text = "Updates that were lost when it was restarted, at least."
    yield gauge("lost_updates", text, shard.tally.lost_updates)
    text = "Workers whose pushes are not looked at."
    quarantined = sum(s["number"] % 2 for s in found["standings"].values())
    yield gauge("quarantined_workers", text, quarantined)
    shared = found["shared"]
    sessions = {"shm": shared, "tcp": found["attached"] - shared}
    yield _by("shard_sessions", "gauge", "Attached sessions.", "transport", sessions, label)


def _pushes(shard: Shard, pushes: Stage, labels: dict[str, str]) -> Iterator[Family]:
    workers = shard.tally.workers.values()
    staleness = Histogram(_STALENESS)
    rejected: Counter[str] = Counter(dict.fromkeys(REJECTIONS, 0))
    for worker in workers:
        rejected.update(worker.rejected)
        for value, count in worker.staleness.items():
            staleness.observe(value, count)
    text = "Pushes applied."
    yield one("gradmq_shard_pushes_applied_total", "counter", text, shard.tally.applied, **labels)
    text = "Pushes rejected, by reason."
    yield _by("shard_pushes_rejected_total", "counter", text, "reason", rejected, labels["shard"])
    text = "Samples of the pushes applied."
    samples = sum(worker.samples for worker in workers)
    yield one("gradmq_shard_samples_applied_total", "counter", text, samples, **labels)
    text = "Payload bytes of the pushes decided."
    nbytes = shard.tally.pushed_bytes
    yield one("gradmq_shard_pushed_bytes_total", "counter", text, nbytes, **labels)
    text = "Staleness of the pushes applied, in updates."
    yield histogram("gradmq_shard_push_staleness", text, staleness, labels)
    text = "Time of receiving and deciding pushes."
    yield summary("gradmq_shard_push_seconds", text, pushes, labels)


def _publications(shard: Shard, listeners: Listeners, label: str) -> Iterator[Family]:
    kinds = dict.fromkeys(("newest", "release", "fetched"), 0)
    made = {**kinds, **shard.publications.made}
    text = "Publications: of newest versions, for releases, and for who fetched."
    yield _by("shard_publications_total", "counter", text, "kind", made, label)
    made = {**kinds, **shard.publications.made_bytes}
    text = "Payload bytes of publications, once each however many read them."
    yield _by("shard_published_bytes_total", "counter", text, "kind", made, label)
    text = "Publications of newest versions that a slow reader's connection has not taken."
    leaving = listeners.leaving
    yield one("gradmq_shard_publications_leaving", "gauge", text, leaving, shard=label)


def _disk(
    shard: Shard,
    saving: Saving,
    journal: JournalWriter | None,
    labels: dict[str, str],
    now: float,
) -> Iterator[Family]:
    text = "Time of writing checkpoints."
    yield summary("gradmq_shard_checkpoint_seconds", text, saving.written, labels)
    text = "Checkpoints that could not be written."
    yield one("gradmq_shard_checkpoints_failed_total", "counter", text, saving.failed, **labels)
    text = "Since a checkpoint was last written, or this process began."
    age_s = now - saving.written_at_s
    yield one("gradmq_shard_checkpoint_age_seconds", "gauge", text, age_s, **labels)
    text = "Updates that are in no checkpoint; without a journal, a crash loses them."
    unsaved = shard.version[1] - saving.version
    yield one("gradmq_shard_unsaved_updates", "gauge", text, unsaved, **labels)
    if journal is None:
        return
    text = "Time of writing to the journal, each time with a sync."
    yield summary("gradmq_shard_journal_sync_seconds", text, journal.synced, labels)
    text = "Bytes written to the journal."
    nbytes = journal.written_bytes
    yield one("gradmq_shard_journal_bytes_total", "counter", text, nbytes, **labels)
    text = "Decisions that wait for the journal, and with them their verdicts."
    yield one("gradmq_shard_journal_waiting_records", "gauge", text, journal.waiting, **labels)


def _by(
    name: str,
    kind: Literal["counter", "gauge"],
    text: str,
    by: str,
    values: dict[Any, int],
    shard: str,
) -> Family:
    """A family with a sample for each value of one more label."""
    samples = [("", {"shard": shard, by: value}, count) for value, count in values.items()]
    return Family(f"gradmq_{name}", kind, text, samples)
