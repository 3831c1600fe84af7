"""Were the promises kept? Pure: from what all processes wrote and what the shards hold at last.

A push may be in the final parameters of a shard exactly if it should be: one that the shard said it
applied, at a version that no later life of the shard went back behind, is there once; one that was
rejected, or applied at a version that was rolled back, is not; only of one without an answer is
either right. What a ``memory`` shard rolled back is counted; for a ``journal`` shard it is a loss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from chaos.history import Event
from chaos.tracer import Seen

Version = tuple[int, int]

#: What must not be; in this order they are printed.
KINDS = (
    "lost", "duplicated", "unexpected", "torn", "backwards", "repeated", "unanswered", "stalled",
    "failed",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FinalShard:
    """What a shard has on disk when all is over."""

    version: int
    lineage: Sequence[Version]
    """(incarnation, version that it was restored at), of this one and its ancestors."""
    seen: Seen
    starts: int
    """How often its process was started."""


@dataclass(frozen=True, slots=True)
class Outage:
    """The broker was away for so long, and nothing else was wrong."""

    began_at: float
    ended_at: float


@dataclass(slots=True)
class Findings:
    """What was found, and how much was looked at."""

    wrong: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    looked_at: Counter[str] = field(default_factory=Counter)

    @property
    def good(self) -> bool:
        return not any(self.wrong.values())

    def add(self, kind: str, text: str) -> None:
        self.wrong[kind].append(text)


def check(
    histories: Mapping[str, Sequence[Event]],
    finals: Sequence[FinalShard],
    durability: str,
    outages: Iterable[Outage] = (),
) -> Findings:
    """``histories`` by the name of a life: no two processes have the same."""
    findings = Findings()
    for life, events in histories.items():
        _check_life(findings, life, events)
    _check_numbers(findings, histories)
    _check_finals(findings, histories, finals, durability)
    _check_outages(findings, histories, outages)
    return findings


def survives(version: Version, lineage: Sequence[Version]) -> bool:
    """True if what was applied at this version is part of the last life's past."""
    incarnation, number = version
    return incarnation in {i for i, _ in lineage} and all(
        number <= restored_at for later, restored_at in lineage if later > incarnation
    )


# -- one process ----------------------------------------------------------------------------------


def _check_life(findings: Findings, life: str, events: Sequence[Event]) -> None:
    seen = [event for event in events if event["what"] == "saw"]
    for event in events:
        if event["what"] == "saw":
            _check_seen(findings, life, event)
        elif event["what"] == "answered":
            findings.add("failed", f"{life}: the inference node answered {event}")
    for before, after in pairwise(seen):
        findings.looked_at["observations"] += 1
        for shard, (old, new) in enumerate(zip(before["versions"], after["versions"], strict=True)):
            if tuple(new) < tuple(old):
                findings.add("backwards", f"{life} saw shard {shard} at {new} after {old}")
        if after.get("release", 1) < before.get("release", 0):
            findings.add("backwards", f"{life}: release {after['release']} after {before}")
    _check_own(findings, life, events)
    ended = [event for event in events if event["what"] == "ended"]
    if ended and ended[-1]["error"]:
        findings.add("failed", f"{life}: {ended[-1]['error']}")
    elif ended:
        answered = {event["push"] for event in events if event["what"] == "verdict"}
        for event in events:
            if event["what"] == "begun" and event["push"] not in answered:
                findings.add("unanswered", f"{life}: push {event['push']}")


def _check_seen(findings: Findings, life: str, event: Event) -> None:
    for shard, version in enumerate(event["versions"]):
        findings.looked_at["versions seen"] += 1
        total, most = event["totals"][shard], event["most"][shard]
        where = f"{life} saw shard {shard} at {version}"
        if event["torn"][shard]:
            findings.add("torn", f"{where}: its copies differ")
        elif most > 1:
            findings.add("duplicated", f"{where}: a push was applied {most} times")
        elif total != version[1]:
            findings.add("torn", f"{where}: it holds {total} pushes")


def _check_own(findings: Findings, life: str, events: Sequence[Event]) -> None:
    """What a worker saw at a version is what it was told of its own pushes at that version."""
    begun: list[int] = []
    verdicts: dict[int, Event] = {}
    for event in events:
        match event["what"]:
            case "begun":
                begun.append(event["push"])
            case "verdict":
                verdicts[event["push"]] = event
            case "saw" if "own" in event:
                for shard, digits in enumerate(event["own"]):
                    version = event["versions"][shard]
                    for push, digit in zip(begun, digits, strict=False):
                        should = _should_be_in(verdicts.get(push), shard, version)
                        if should is not None and should != (digit == "1"):
                            findings.add(
                                "lost" if should else "unexpected",
                                f"{life} saw shard {shard} at {version}: push {push} is "
                                f"there {digit} times, its verdict {verdicts[push]}",
                            )


def _should_be_in(verdict: Event | None, shard: int, version: Version) -> bool | None:
    if verdict is None or verdict["outcomes"][shard] == "unknown":
        return None
    if verdict["outcomes"][shard] != "applied":
        return False
    if verdict["versions"][shard] is None:
        return None  # found at the end
    incarnation, number = verdict["versions"][shard]
    return bool(number <= version[1]) if incarnation == version[0] else None


# -- all processes --------------------------------------------------------------------------------


def _check_numbers(findings: Findings, histories: Mapping[str, Sequence[Event]]) -> None:
    """Sessions have one owner, a release number one meaning, for as long as the run lasts."""
    owners: dict[int, str] = {}
    releases: dict[int, object] = {}
    for life, events in histories.items():
        for event in events:
            if event["what"] == "session":
                owner = owners.setdefault(event["session"], life)
                if owner != life:
                    session = event["session"]
                    findings.add("repeated", f"session {session}: of {owner} and of {life}")
            elif "release" in event:
                versions = releases.setdefault(event["release"], event["versions"])
                if versions != event["versions"]:
                    findings.add("repeated", f"release {event['release']}: {versions} and {event}")
    findings.looked_at["sessions"] = len(owners)
    findings.looked_at["releases"] = len(releases)


def _check_finals(
    findings: Findings,
    histories: Mapping[str, Sequence[Event]],
    finals: Sequence[FinalShard],
    durability: str,
) -> None:
    begun, verdicts = _all_pushes(findings, histories)
    findings.looked_at["pushes"] = len(begun)
    for shard, final in enumerate(finals):
        where = f"shard {shard} at its end"
        if final.seen.is_torn or final.seen.total != final.version:
            text = f"{where}: {final.seen.total} pushes at version {final.version}"
            findings.add("torn", text)
        if final.lineage[-1][0] > final.starts:
            text = f"{where}: {final.starts} starts, incarnation {final.lineage[-1][0]}"
            findings.add("unexpected", text)
        for push, count in enumerate(final.seen.counts.tolist()):
            if count > 1:
                findings.add("duplicated", f"{where}: push {push} {count} times")
            elif push not in verdicts:
                if count and push not in begun:
                    findings.add("unexpected", f"{where}: push {push}, which nobody made")
            else:
                _check_verdict(findings, where, verdicts[push], shard, final, count, durability)


def _all_pushes(
    findings: Findings, histories: Mapping[str, Sequence[Event]]
) -> tuple[set[int], dict[int, Event]]:
    """Those that were begun, and the verdicts."""
    begun: set[int] = set()
    verdicts: dict[int, Event] = {}
    for life, events in histories.items():
        for event in events:
            if event["what"] == "begun":
                begun.add(event["push"])
            elif event["what"] == "verdict":
                if event["push"] in verdicts:
                    findings.add("duplicated", f"{life}: two verdicts on push {event['push']}")
                verdicts[event["push"]] = event
    return begun, verdicts


def _check_verdict(
    findings: Findings,
    where: str,
    verdict: Event,
    shard: int,
    final: FinalShard,
    count: int,
    durability: str,
) -> None:
    outcome = verdict["outcomes"][shard]
    findings.looked_at[outcome] += 1
    if outcome == "unknown":
        return
    text = f"{where} (lineage {final.lineage}): {verdict}"
    if outcome != "applied":
        if count:
            findings.add("unexpected", text)
    elif verdict["versions"][shard] is None:
        findings.add("unexpected", f"{text}: applied, at no version")
    elif survives(tuple(verdict["versions"][shard]), final.lineage):
        if not count:
            findings.add("lost", text)
    elif durability == "journal":
        findings.add("lost", text)
    else:
        findings.looked_at["rolled back"] += 1
        if count:
            findings.add("unexpected", text)


def _check_outages(
    findings: Findings, histories: Mapping[str, Sequence[Event]], outages: Iterable[Outage]
) -> None:
    """While the broker alone is away, training goes on."""
    moments = sorted(
        event["at"]
        for events in histories.values()
        for event in events
        if event["what"] == "verdict" and "applied" in event["outcomes"]
    )
    for outage in outages:
        findings.looked_at["broker outages"] += 1
        if not any(outage.began_at < at < outage.ended_at for at in moments):
            away_s = outage.ended_at - outage.began_at
            findings.add("stalled", f"no push was applied while the broker was away {away_s:.1f} s")
