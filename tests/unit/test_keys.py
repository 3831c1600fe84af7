"""Keys on disk: what is made, what is read, and what is refused for being open to others."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import zmq

from gradmq.errors import SettingsError
from gradmq.security import keys
from gradmq.security.allow_list import LOOK_EVERY_S, AllowList
from gradmq.security.token import read_token


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "keys"
    keys.init(made)
    return made


def test_nobody_else_can_read_what_is_made(folder: Path) -> None:
    before = os.umask(0)
    try:
        keys.add(folder, "w", "worker")
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == dict.fromkeys(["allowed", "broker.key", "w.key"], 0o600)


def test_one_file_is_all_that_a_member_needs(folder: Path, tmp_path: Path) -> None:
    carried = keys.add(folder, "w", "worker").rename(tmp_path / "elsewhere.key")
    identity = keys.load_identity(carried, "", "worker")
    broker = keys.load_identity(folder, "broker", "broker")
    assert identity is not None and broker is not None
    assert (identity.name, identity.role) == ("w", "worker")
    assert identity.broker_key == broker.key
    assert identity.key == zmq.curve_public(identity.secret.encode()).decode()
    assert [(e.name, e.role) for e in keys.allowed_in(folder)] == [
        ("broker", "broker"),
        ("w", "worker"),
    ]
    assert identity.key == keys.allowed_in(folder)[1].key
    assert identity.secret not in repr(identity)


def test_a_key_file_that_others_can_read_is_refused(folder: Path) -> None:
    path = keys.add(folder, "w", "worker")
    path.chmod(0o640)
    with pytest.raises(SettingsError, match=r"can be read by others \(mode 0640\): chmod 600"):
        keys.load_identity(path, "", "worker")


def test_an_allow_list_that_others_can_write_is_refused(folder: Path) -> None:
    (folder / "allowed").chmod(0o622)
    with pytest.raises(SettingsError, match="by others"):
        AllowList(folder).read()


@pytest.mark.parametrize(
    ("name", "roles", "text"),
    [
        ("", ("worker",), "holds many keys: give this process a name"),
        ("x", ("worker",), "there is no .*x.key; `gradmq keys add` makes one"),
        ("w", ("ps",), "is a key of role worker; here it takes ps"),
    ],
)
def test_a_key_is_that_of_who_it_is_for(folder: Path, name: str, roles: tuple, text: str) -> None:
    keys.add(folder, "w", "worker")
    with pytest.raises(SettingsError, match=text):
        keys.load_identity(folder, name, *roles)


def test_a_file_of_another_name_is_refused(folder: Path) -> None:
    path = keys.add(folder, "w", "worker")
    with pytest.raises(SettingsError, match="is the key of w, not of v"):
        keys.load_identity(path, "v", "worker")


@pytest.mark.parametrize("text", ["", "name = 3", "[", "\0", 'name="w"\nrole="king"\nsecret="x"'])
def test_a_file_that_is_no_key_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "w.key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(SettingsError, match=r"w\.key is no key file"):
        keys.load_identity(path, "", "worker")


@pytest.mark.parametrize("name", ["", "../w", "a b", "-x", "x" * 65, "ä"])
def test_a_name_is_a_plain_word(folder: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="use letters, digits"):
        keys.add(folder, name, "worker")


def test_a_shards_key_is_named_after_it(folder: Path) -> None:
    keys.add(folder, "ps-10", "ps")
    for name in ("ps", "shard-1", "ps-01", "ps--1"):
        with pytest.raises(SettingsError, match="ps-0, ps-1"):
            keys.add(folder, name, "ps")


def test_a_name_has_one_key_until_it_is_revoked(folder: Path) -> None:
    first = keys.load_identity(keys.add(folder, "w", "worker"), "", "worker")
    with pytest.raises(SettingsError, match="w has a key already"):
        keys.add(folder, "w", "reader")
    keys.revoke(folder, "w")
    assert not (folder / "w.key").exists()
    with pytest.raises(SettingsError, match="has no 'w'"):
        keys.revoke(folder, "w")
    second = keys.load_identity(keys.add(folder, "w", "reader"), "", "reader")
    assert first is not None and second is not None
    assert first.key != second.key


def test_a_folder_is_made_once_and_the_brokers_key_stays(folder: Path) -> None:
    with pytest.raises(SettingsError, match="holds keys already"):
        keys.init(folder)
    with pytest.raises(SettingsError, match="without its own key a broker cannot be reached"):
        keys.revoke(folder, "broker")


def test_what_is_there_is_not_made_anew(folder: Path) -> None:
    keys.ensure(folder, {"ps-0": "ps", "w": "worker"})
    before = keys.allowed_in(folder)
    keys.ensure(folder, {"ps-0": "ps", "w": "worker", "v": "worker"})
    assert keys.allowed_in(folder)[:3] == before
    with pytest.raises(SettingsError, match="no keys folder; `gradmq keys init"):
        keys.ensure(folder / "nowhere", {})


@pytest.mark.parametrize(
    ("version", "curve"), [((4, 3, 4), True), ((4, 3, 5), False), ((3, 2, 0), False)]
)
def test_an_old_libzmq_is_not_trusted_with_keys(
    folder: Path, monkeypatch: pytest.MonkeyPatch, version: tuple, curve: bool
) -> None:
    monkeypatch.setattr(zmq, "zmq_version_info", lambda: version)
    monkeypatch.setattr(zmq, "has", lambda feature: curve)
    with pytest.raises(SettingsError, match=r"keys need libzmq 4.3.5 or newer with CURVE"):
        keys.load_identity(folder, "broker", "broker")
    assert keys.load_identity(None, "broker", "broker") is None


def test_a_change_of_the_list_is_seen_at_the_next_look(folder: Path) -> None:
    watched = AllowList(folder)
    assert [e.name for e in watched.read().allowed] == ["broker"]
    now = 100.0
    assert watched.changed(now) is None
    keys.add(folder, "w", "worker")
    assert watched.changed(now + LOOK_EVERY_S / 2) is None
    changed = watched.changed(now + LOOK_EVERY_S)
    assert changed is not None and len(changed.allowed) == 2
    assert watched.changed(now + 3 * LOOK_EVERY_S) is None


def test_a_list_that_cannot_be_read_any_more_allows_nobody(folder: Path) -> None:
    watched = AllowList(folder / "broker.key")  # beside which it lies
    watched.read()
    (folder / "allowed").unlink()
    changed = watched.changed(0.0)
    assert changed is not None and changed.allowed == ()


def test_a_line_that_was_damaged_allows_only_its_owner_nothing(folder: Path) -> None:
    keys.add(folder, "w", "worker")
    watched = AllowList(folder)
    watched.read()
    text = (folder / "allowed").read_text()
    (folder / "allowed").write_text(text.replace("broker broker", "broker brokr"))
    changed = watched.changed(0.0)
    assert changed is not None and [e.name for e in changed.allowed] == ["w"]
    with pytest.raises(SettingsError, match="line 2 is not NAME ROLE KEY"):
        AllowList(folder).read()


def test_a_token_is_read_from_a_file_that_only_its_owner_can_read(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("0123456789abcdef\n")
    path.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        read_token(path)
    path.chmod(0o600)
    assert read_token(path) == "0123456789abcdef"
    assert read_token(None) == ""


@pytest.mark.parametrize("text", ["", "\n", "short", "two words of a token", "ääääääääääääääääää"])
def test_a_token_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(SettingsError, match="openssl rand"):
        read_token(path)
