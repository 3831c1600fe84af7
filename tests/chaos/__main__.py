"""``python -m chaos``: kill and hurt a run's processes by seed, and check what they did.

    python -m chaos [--kills N] [--seed N] [--network direct|proxy|hosts|all]
                    [--durability memory|journal] [--keep FOLDER]

Ends with status 1 if a promise was not kept.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from chaos.checker import KINDS, Findings
from chaos.network import NETWORKS, require_hosts
from chaos.round import Done, Round
from chaos.run import DURABILITIES, Case
from gradmq.bench.hosts import NoHosts

SHOWN = 5

#: Parameters of several megabytes, of which a version is several parts, where they cost least.
COPIES = {"direct": 160, "proxy": 4, "hosts": 20}


def main() -> int:
    options = _options()
    seed = options.seed if options.seed is not None else int(time.time())
    names = [options.network] if options.network != "all" else list(NETWORKS)
    if "hosts" in names:
        try:
            require_hosts()
        except NoHosts as reason:
            print(f"hosts: skipped: {reason}")
            names.remove("hosts")
    good = True
    for index, name in enumerate(names):
        kills = options.kills * (index + 1) // len(names) - options.kills * index // len(names)
        # A push that comes twice is stale the second time: with a bound it would not be applied.
        rule = "unbounded" if name == "direct" else "bounded"
        copies = options.copies or COPIES[name]
        case = Case(name, options.durability, copies=copies, staleness=rule)
        good &= _round(case, seed, kills, options.keep)
    return 0 if good else 1


def _round(case: Case, seed: int, kills: int, keep: Path | None) -> bool:
    began_at = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="gradmq-chaos-"))
    random = Random(f"chaos {seed} network")
    with NETWORKS[case.network](case.shards, random) as network:
        round_ = Round(case, network, folder, seed, kills)
        findings = round_.run()
    print(f"{case.network}, {case.durability}, seed {seed}: {time.monotonic() - began_at:.0f} s")
    print(report(round_.done, findings), flush=True)
    if keep is not None:
        shutil.copytree(folder, keep / case.network, dirs_exist_ok=True)
    shutil.rmtree(folder)
    return findings.good


def report(done: Done, findings: Findings) -> str:
    """What was done, what was looked at and what was found, for people."""
    at = findings.looked_at
    kills = ", ".join(f"{role} {n}" for role, n in sorted(done.kills.items()))
    others = ", ".join(f"{kind} {n}" for kind, n in sorted(done.others.items())) or "none"
    points = ", ".join(f"{name} {n}" for name, n in sorted(done.failpoints.items())) or "none"
    slowest = f"{max(done.directory_s):.1f} s" if done.directory_s else "–"
    lines = [
        f"  {done.kills.total()} kills: {kills}",
        f"  of these at failpoints: {points}",
        f"  besides: {others}",
        f"  broker alone away: {at['broker outages']} times; its directory again after {slowest} "
        "at most",
        f"  {at['pushes']} pushes; on all shards: {at['applied']} applied, "
        f"{at['rejected']} rejected, {at['unknown']} unknown; {at['rolled back']} rolled back "
        "with a shard",
        f"  {at['versions seen']} versions seen, {at['releases']} releases, "
        f"{at['sessions']} sessions",
        "  " + ", ".join(f"{kind} {len(findings.wrong[kind])}" for kind in KINDS),
    ]
    for kind in KINDS:
        lines += [f"  {kind}: {text}"[:400] for text in findings.wrong[kind][:SHOWN]]
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, help="default: of the clock")
    parser.add_argument("--network", choices=[*NETWORKS, "all"], default="all")
    parser.add_argument("--durability", choices=DURABILITIES, default=DURABILITIES[0])
    parser.add_argument("--copies", type=int, help="of 16 kB in each shard")
    parser.add_argument("--keep", type=Path, help="copy histories, logs and state here")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
