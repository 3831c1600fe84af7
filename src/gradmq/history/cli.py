"""``gradmq history``: a run's past."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter, validators

from gradmq import strict_json
from gradmq.config import keys_of
from gradmq.errors import SettingsError
from gradmq.history.moves import HEADING, Move, Share, moves, shares
from gradmq.history.rebuild import Target, rebuild

app = App(
    name="history",
    help="What moved a run's weights, the same again without a worker, and back to a release. "
    "Needs run.durability=journal.",
)

Run = Annotated[Path, Parameter(help="Folder of a run, as in runs/lm-1, or of --state.")]


@app.command(name="list")
def list_(
    run: Run,
    *,
    shard: Annotated[int | None, Parameter(help="Of this shard only.")] = None,
    worker: Annotated[str | None, Parameter(help="Of this worker only.")] = None,
    last: Annotated[
        int, Parameter(help="So many of the newest; 0: all.", validator=validators.Number(gte=0))
    ] = 20,
    json_: Annotated[
        bool, Parameter("--json", help="Print every push as a line of JSON.", negative="")
    ] = False,
) -> int:
    """Show every push: worker, seq, staleness, weight, norm; and what each worker's came to."""
    found = moves(run, shard, worker)
    if json_:
        for move in found if last == 0 else deque(found, last):
            print(strict_json.dumps(move.as_json()))
        return 0
    newest: deque[Move] = deque(maxlen=last or None)
    by_worker = shares(_kept(found, newest))
    if not by_worker:
        raise SettingsError(f"{run}: nothing of the kind is in its journal")
    print(HEADING)
    for move in newest:
        print(move.line())
    print()
    _print_shares(by_worker)
    return 0


@app.command
def replay(
    run: Run,
    *,
    to: Annotated[
        str, Parameter(help="release:12, or version:4711 of every shard; default: the end.")
    ] = "",
    without: Annotated[
        list[str],
        Parameter(help="Leave this worker's pushes out; may be repeated.", negative=""),
    ] = [],  # noqa: B006  (cyclopts reads the default, nobody writes to it)
    out: Annotated[Path | None, Parameter(help="Write parameters.safetensors there.")] = None,
) -> int:
    """Make the parameters again from checkpoint and journal: the same bits, or without a worker."""
    target = Target.parse(to)
    rebuilt = rebuild(run, target, without)
    versions = ", ".join(f"{version}" for _, version in rebuilt.versions)
    print(f"{target}: version {versions}; replayed {rebuilt.replayed} updates", end="")
    print(f", left out {rebuilt.skipped} of {', '.join(without)}" if without else "")
    print(f"sha256 {rebuilt.digest}")
    if out is not None:
        print(f"wrote {rebuilt.write(out)}")
    return 0


@app.command
def rollback(
    broker: Annotated[str, Parameter(help="Address of the broker.")] = "tcp://127.0.0.1:5550",
    *,
    to: Annotated[str, Parameter(help="release:12, which all shards have on disk.")],
    timeout: Annotated[float, Parameter(help="Seconds.", validator=validators.Number(gt=0))] = 60.0,
    keys: Annotated[
        Path | None, Parameter(help="Keys folder, or this process's key file (`gradmq keys`).")
    ] = None,
) -> int:
    """Have a live run go back: a new release with the contents of an old one."""
    from gradmq.observer import Observer

    target = Target.parse(to)
    if target.release is None:
        raise SettingsError(f"--to {to}: a run goes back to a release; write release:12")
    with Observer(broker, keys_of(keys, os.environ)) as observer:
        made = observer.roll_back(target.release, timeout)
    print(f"release {made} holds what release {target.release} held; older gradients are refused")
    return 0


def _kept(found: Iterable[Move], newest: deque[Move]) -> Iterator[Move]:
    for move in found:
        newest.append(move)
        yield move


def _print_shares(by_worker: dict[str, Share]) -> None:
    total = sum(share.path for share in by_worker.values())
    print("worker            applied rejected  path (sum of lr·weight·norm)")
    for worker, share in sorted(by_worker.items()):
        part = share.path / total if total else 0.0
        print(f"{worker:16} {share.applied:8d} {share.rejected:8d}  {share.path:.4g} ({part:.0%})")
