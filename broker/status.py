"""The structure behind ``status()`` and ``gradmq status --json``; documented in docs/status.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from gradmq.broker.directory import Member, Members
from gradmq.broker.releases import Releases
from gradmq.wire.messages import Evaluated, Role


def compose(
    members: Members,
    releases: Releases,
    evaluations: Iterable[Evaluated],
    now: float,
    metrics: str = "",
) -> dict[str, Any]:
    """All that is known of a run at this instant; plain values, ready for JSON.

    ``metrics``: where this broker shows its own.
    """
    manifest = releases.manifest
    return {
        "run": members.run,
        "phase": members.phase,
        "waiting_for": _waiting_for(members),
        "metrics": metrics,
        "release": {
            "number": manifest.release if manifest else 0,
            "versions": [list(entry.version) for entry in manifest.shards] if manifest else [],
            "saved": releases.saved,
            "abandoned": releases.abandoned,
        },
        "shards": [_shard(members, i, now) for i in range(members.shards)],
        "workers": _workers(members, now),
        "infer": _followers(members, "infer", now),
        "followers": _followers(members, "follower", now),
        "evaluations": [{"release": e.release, **e.metrics} for e in evaluations],
    }


def _waiting_for(members: Members) -> str:
    if members.phase != "waiting":
        return ""
    present = {m.shard for m in members.shard_members()}
    missing = [i for i in range(members.shards) if i not in present]
    if missing:
        return f"shards {missing} to join"
    return "initial parameters, from the first worker"


def _shard(members: Members, index: int, now: float) -> dict[str, Any]:
    member = members.shard(index)
    live = member is not None
    member = member or members.departed_shards.get(index)
    if member is None:
        return {"index": index, "incarnation": 0, "version": 0, "live": False, "applied": 0,
                "rejected": {}, "parameter_bytes": 0, "pushed_bytes": 0, "lost_updates": 0,
                "shared": 0, "waiting_for": "to join", "waiting_s": _since(members.began_at, now),
                "host": "", "pid": 0, "addresses": [], "metrics": "", "key": "",
                "silent_s": 0.0}  # fmt: skip
    report = member.report
    tallies = report.get("workers", {}).values()
    return {
        "index": index,
        "incarnation": member.incarnation,
        "version": report.get("version", 0),
        "live": live,
        "applied": sum(t["applied"] for t in tallies),
        "rejected": dict(sum((Counter(t["rejected"]) for t in tallies), Counter())),
        "parameter_bytes": report.get("parameter_bytes", 0),
        "pushed_bytes": report.get("pushed_bytes", 0),
        "lost_updates": report.get("lost_updates", 0),
        "shared": report.get("shared", 0),
        "waiting_for": report.get("waiting_for", "") if live else "to join",
        "waiting_s": _since(member.waiting_since if live else member.heard_at, now),
        "host": member.host,
        "pid": member.pid,
        "addresses": list(member.addresses) if live else [],
        "metrics": report.get("metrics", "") if live else "",
        "key": member.key,
        "silent_s": _since(member.heard_at, now),
    }


def _since(at: float | None, now: float) -> float:
    return 0.0 if at is None else round(now - at, 3)


def _workers(members: Members, now: float) -> list[dict[str, Any]]:
    live = {member.name: member for member in members.workers()}
    departed = {n: member for n, member in members.departed.items() if member.role == "worker"}
    tallies = {name: _tally(members, name) for name in {**departed, **live}}
    all_samples = sum(tally["samples"] for tally in tallies.values())
    quarantined = {q.name: q for q in members.standings.quarantined()}
    rows = []
    for name in sorted(tallies, key=_by_number):
        member = live.get(name) or departed[name]
        report, tally, quarantine = member.report, tallies[name], quarantined.get(name)
        rows.append(
            {
                "name": name,
                "live": name in live,
                "lost": member.lost,
                "quarantine": quarantine.why if quarantine else "",
                "quarantined_s": _since(quarantine.since if quarantine else None, now),
                "session": member.session,
                "seq": report.get("seq", 0),
                **tally,
                "share": tally["samples"] / all_samples if all_samples else 0.0,
                "samples_per_s": report.get("samples_per_s", 0.0) if name in live else 0.0,
                "loss": report.get("loss"),
                "skipped_nonfinite": report.get("skipped_nonfinite", 0),
                "transport": report.get("transport", ""),
                "torn_reads": report.get("torn_reads", 0),
                "metrics": report.get("metrics", "") if name in live else "",
                "waiting_for": report.get("waiting_for", ""),
                "waiting_s": _since(member.waiting_since, now),
                "host": member.host,
                "pid": member.pid,
                "silent_s": _since(member.heard_at, now),
            }
        )
    return rows


def _tally(members: Members, name: str) -> dict[str, Any]:
    """One worker's verdicts, summed over shards; samples are those of a mean shard."""
    applied, samples = 0, 0
    rejected: Counter[str] = Counter()
    staleness: Counter[int] = Counter()
    for member in members.shard_members():
        tally = member.report.get("workers", {}).get(name)
        if tally is None:
            continue
        applied += tally["applied"]
        samples += tally["samples"]
        rejected.update(tally["rejected"])
        staleness.update({int(s): int(n) for s, n in tally["staleness"]})
    return {
        "applied": applied,
        "samples": samples // members.shards,
        "rejected": dict(rejected),
        "staleness": {
            "median": _median(staleness),
            "max": max(staleness, default=0),
            "histogram": sorted(staleness.items()),
        },
    }


def _median(counts: Counter[int]) -> int:
    half, seen = (counts.total() + 1) // 2, 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= half:
            return value
    return 0


def _followers(members: Members, role: Role, now: float) -> list[dict[str, Any]]:
    """Those that are there, and those whose lease ran out."""
    known = [*members.members.values(), *members.departed.values()]
    return [_follower(member, now) for member in known if member.role == role]


def _follower(member: Member, now: float) -> dict[str, Any]:
    return {
        "name": member.name,
        "live": not member.lost,
        "release": member.report.get("release", 0),
        "answering": member.report.get("answering", 0),
        "steering": member.report.get("steering", ""),
        "age_s": member.report.get("age_s"),
        "url": member.report.get("url", ""),
        "waiting_for": member.report.get("waiting_for", ""),
        "waiting_s": _since(member.waiting_since, now),
        "host": member.host,
        "pid": member.pid,
        "silent_s": _since(member.heard_at, now),
    }


def _by_number(name: str) -> tuple[str, int, str]:
    head, _, tail = name.rpartition("-")
    return (head, int(tail), name) if tail.isdigit() else (name, 0, name)
