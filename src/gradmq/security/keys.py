"""Keys on disk: a folder where they are made, and one small file that its owner needs.

KEYS/           0700, on the broker's host
  allowed       0600, the allow-list: NAME ROLE PUBLIC-KEY
  broker.key    0600, of the broker, and of whoever stops and saves the run
  NAME.key      0600, of one member: its key, and the broker's public one; all that its host needs
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import zmq

from gradmq.durable import write_atomically
from gradmq.errors import SettingsError
from gradmq.security.access import (
    KEY_CHARACTERS,
    NAME,
    ROLES,
    read_allow_list,
    write_allow_list,
)
from gradmq.wire.messages import AllowedKey, KeyRole

#: The first without known holes in CURVE, ZAP and XPUB.
LIBZMQ_NEEDED = (4, 3, 5)

#: The whole list goes to every shard in one header of at most 1 MiB.
MOST_KEYS = 4096

#: A shard serves under its own name only.
PS_NAME = re.compile(r"ps-(0|[1-9]\d*)", re.ASCII)

BROKER = "broker"
ALLOWED = "allowed"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a process is, how it proves that, and how it knows its broker; keys in Z85."""

    name: str
    role: KeyRole
    key: str
    """The public one."""
    secret: str = field(repr=False)
    broker_key: str


def load_identity(keys: Path | str | None, name: str, *roles: KeyRole) -> Identity | None:
    """The identity in a key file, or that of ``name`` in a keys folder; None without keys.

    Raises SettingsError if there is none, if others can read it, if it is another's, if it is of
    none of these roles, or if this libzmq cannot be trusted with it.
    """
    if keys is None:
        return None
    _require_curve()
    path = Path(keys)
    if path.is_dir():
        if not name:
            raise SettingsError(f"{path} holds many keys: give this process a name, or name a file")
        path = path / f"{name}.key"
    identity = _read(path)
    if name and identity.name != name:
        raise SettingsError(f"{path} is the key of {identity.name}, not of {name}")
    if identity.role not in roles:
        wanted = " or ".join(roles)
        raise SettingsError(f"{path} is a key of role {identity.role}; here it takes {wanted}")
    return identity


def load_operator(keys: Path | str | None) -> Identity | None:
    """Who asks a broker from outside: a key file of any role, or the broker's own in a folder."""
    return load_identity(keys, BROKER if keys and Path(keys).is_dir() else "", *ROLES)


def why_silent(identity: Identity | None) -> str:
    """What may be the matter with a broker that says nothing: strangers get no answer at all."""
    if identity is None:
        return "is it running there? If it has keys, name yours"
    return f"is it running there, with keys, and {identity.name} on its allow-list?"


def _require_curve() -> None:
    if zmq.zmq_version_info() < LIBZMQ_NEEDED or not zmq.has("curve"):
        needed = ".".join(map(str, LIBZMQ_NEEDED))
        raise SettingsError(
            f"keys need libzmq {needed} or newer with CURVE; this is {zmq.zmq_version()}, "
            f"{'with' if zmq.has('curve') else 'without'} it: install a newer pyzmq"
        )


def _read(path: Path) -> Identity:
    text = read_secret(path, "`gradmq keys add` makes one")
    try:
        values = {str(k): str(v) for k, v in tomllib.loads(text).items()}
        identity = Identity(
            values["name"],
            next(role for role in ROLES if role == values["role"]),
            zmq.curve_public(values["secret"].encode()).decode(),
            values["secret"],
            values["broker"],
        )
    except (tomllib.TOMLDecodeError, KeyError, StopIteration, ValueError, zmq.ZMQError):
        raise SettingsError(f"{path} is no key file of gradmq: make it anew") from None
    if not NAME.fullmatch(identity.name) or len(identity.broker_key) != KEY_CHARACTERS:
        raise SettingsError(f"{path} is no key file of gradmq: make it anew")
    return identity


def read_secret(path: Path, remedy: str) -> str:
    """The text of a file that nobody else can read; raises SettingsError."""
    try:
        with path.open(encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise SettingsError(
                    f"{path} can be read by others (mode {stat.S_IMODE(mode):04o}): chmod 600 it"
                )
            return file.read()
    except FileNotFoundError:
        raise SettingsError(f"there is no {path}; {remedy}") from None
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is not text") from None


# -- the folder ------------------------------------------------------------------------------------


def init(folder: Path) -> None:
    """Make a keys folder with the broker's key; raises SettingsError if there is one already."""
    _require_curve()
    if (folder / ALLOWED).exists():
        raise SettingsError(f"{folder} holds keys already; new ones would shut out their owners")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise SettingsError(f"cannot make {folder}: {error.strerror}") from None
    with _edited(folder) as entries:
        public, secret = zmq.curve_keypair()
        _write_key(folder, BROKER, "broker", secret, public)
        entries[BROKER] = AllowedKey(name=BROKER, role="broker", key=public.decode())


def add(folder: Path, name: str, role: KeyRole) -> Path:
    """Make a key and allow it; returns the file to give to its owner. Raises SettingsError."""
    with _edited(folder) as entries:
        if name in entries:
            raise SettingsError(f"{name} has a key already; `gradmq keys revoke {name}` ends it")
        return _add(folder, entries, name, role)


def ensure(folder: Path, roles: Mapping[str, KeyRole]) -> None:
    """Make a key for every one of these names that has none; raises SettingsError."""
    if not folder.is_dir():
        raise SettingsError(f"{folder} is no keys folder; `gradmq keys init --keys {folder}`")
    with _edited(folder) as entries:
        for name, role in roles.items():
            if name not in entries:
                _add(folder, entries, name, role)


def revoke(folder: Path, name: str) -> None:
    """Take a name off the allow-list, and its key away; raises SettingsError."""
    if name == BROKER:
        raise SettingsError("without its own key a broker cannot be reached; make a new folder")
    with _edited(folder) as entries:
        if entries.pop(name, None) is None:
            raise SettingsError(f"{folder / ALLOWED} has no {name!r}; `gradmq keys list` shows all")
    (folder / f"{name}.key").unlink(missing_ok=True)


def allowed_in(folder: Path) -> list[AllowedKey]:
    """The allow-list of a folder; raises SettingsError if a line of it cannot be understood."""
    path = folder / ALLOWED
    text = read_secret(path, f"make a keys folder: gradmq keys init --keys {folder}")
    entries, wrong = read_allow_list(text)
    if wrong:
        raise SettingsError(f"{path}: {wrong[0]}")
    return entries


def _add(folder: Path, entries: dict[str, AllowedKey], name: str, role: KeyRole) -> Path:
    if not NAME.fullmatch(name):
        raise SettingsError(f"name {name!r}: use letters, digits, '.', '_' and '-', at most 64")
    if role == "ps" and not PS_NAME.fullmatch(name):
        raise SettingsError(f"the key of a shard is named after it, ps-0, ps-1, …; not {name!r}")
    if len(entries) >= MOST_KEYS:
        raise SettingsError(f"{folder / ALLOWED} has {len(entries)} keys, as many as it can have")
    if BROKER not in entries:
        raise SettingsError(f"{folder / ALLOWED} has no broker: make a new folder")
    public, secret = zmq.curve_keypair()
    path = _write_key(folder, name, role, secret, entries[BROKER].key.encode())
    entries[name] = AllowedKey(name=name, role=role, key=public.decode())
    return path


def _write_key(folder: Path, name: str, role: KeyRole, secret: bytes, broker: bytes) -> Path:
    path = folder / f"{name}.key"
    text = (
        f"# The key of {name}: all that its host needs. Keep it secret, mode 0600.\n"
        f'name = "{name}"\nrole = "{role}"\nsecret = "{secret.decode()}"\n'
        f'broker = "{broker.decode()}"  # the public key of the broker\n'
    )
    _write_private(path, text)
    return path


def _write_private(path: Path, text: str) -> None:
    def write(beside: Path) -> None:
        # Made so, not changed to it: nobody can open it in between.
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)

    try:
        write_atomically(path, write)
    except OSError as error:
        raise SettingsError(f"cannot write {path}: {error.strerror}") from None


@contextmanager
def _edited(folder: Path) -> Iterator[dict[str, AllowedKey]]:
    """The allow-list by name, written back at the end; one process at a time."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise SettingsError(
            f"cannot open keys folder {folder}: {error.strerror}; `gradmq keys init` makes one"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        exists = (folder / ALLOWED).exists()
        entries = {entry.name: entry for entry in (allowed_in(folder) if exists else ())}
        before = dict(entries)
        yield entries
        if entries != before:
            _write_private(folder / ALLOWED, write_allow_list(entries.values()))
    finally:
        os.close(descriptor)
