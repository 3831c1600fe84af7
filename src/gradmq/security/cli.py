"""``gradmq keys``: who is in a run, on the broker's host."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from gradmq.security import keys as folder
from gradmq.wire.messages import KeyRole

app = App(name="keys", help="Make, list and revoke the keys of a run's members.")

Folder = Annotated[Path, Parameter(help="The keys folder.", env_var="GRADMQ_NETWORK_KEYS")]
DEFAULT = Path("gradmq-keys")

Name = Annotated[str, Parameter(help="Of the member; a shard's is ps-0, ps-1, …")]
Role = Annotated[
    KeyRole,
    Parameter(
        help="worker: pushes. ps: serves a shard. infer: follows releases, says where it serves "
        "and what they achieve. reader: follows and looks. broker: also stops and saves the run."
    ),
]


@app.command
def init(*, keys: Folder = DEFAULT) -> int:
    """Make a keys folder, with the key of the broker."""
    folder.init(keys)
    print(f"{keys} holds the broker's key; it stays on the broker's host")
    return 0


@app.command
def add(name: Name, *, role: Role, keys: Folder = DEFAULT) -> int:
    """Make a key and allow it; a broker that runs hears of it within a second."""
    path = folder.add(keys, name, role)
    print(f"{path} is all that the host of {name} needs: carry it there, keep it secret")
    return 0


@app.command
def revoke(name: Name, *, keys: Folder = DEFAULT) -> int:
    """Shut a member out, on connections that are up too; takes effect within a second."""
    folder.revoke(keys, name)
    print(f"{name} is off the allow-list, and its key is gone from {keys}")
    return 0


@app.command(name="list")
def list_(*, keys: Folder = DEFAULT) -> int:
    """Show whose keys are allowed."""
    for entry in folder.allowed_in(keys):
        print(f"{entry.name:24} {entry.role:8} {entry.key}")
    return 0
