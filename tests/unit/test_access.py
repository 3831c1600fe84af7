"""The matrix of who may connect where and say what, and the text that an allow-list is."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradmq.security.access import (
    MAY_SAY,
    ROLES,
    Access,
    read_allow_list,
    write_allow_list,
)
from gradmq.wire import messages
from gradmq.wire.messages import (
    AllowedKey,
    AskRelease,
    AskStatus,
    AskStop,
    Attach,
    Evaluated,
    Hello,
    KeyRole,
    Labelled,
    Push,
    Role,
)


def key_of(name: str) -> str:
    return f"{name:x<40}"


def allowed(name: str, role: KeyRole) -> AllowedKey:
    return AllowedKey(name=name, role=role, key=key_of(name))


#: One key of each role, named after it, and the key of a shard.
ALL = Access([*(allowed(role, role) for role in ROLES if role != "ps"), allowed("ps-3", "ps")])


def hello(role: Role, name: str, shard: int | None = None) -> Hello:
    return Hello(role=role, name=name, host="h", pid=1, shard=shard)


def attach(name: str) -> Attach:
    return Attach(
        run="r", layout="l", session=1, name=name, oldest_unanswered=1, newest_seen=None, window=1
    )


PUSH = Push(run="r", shard=0, incarnation=1, session=1, seq=1, base=(1, 0), layout="l")

CONNECTS = {
    "broker": {"worker", "ps", "infer", "reader", "broker"},
    "gradients": {"worker"},
    "parameters": {"worker", "infer", "reader"},
    "control": {"worker", "infer", "reader", "broker"},
}


@pytest.mark.parametrize("domain", CONNECTS)
def test_each_role_connects_only_where_it_has_business(domain: str) -> None:
    let_in = {entry.role for entry in ALL.allowed if ALL.may_connect(domain, entry.key)}
    assert let_in == CONNECTS[domain]


@pytest.mark.parametrize("domain", [*CONNECTS, "", "*", "global", "gradients "])
def test_an_unknown_key_connects_nowhere_and_a_known_one_to_no_unknown_domain(domain: str) -> None:
    assert not ALL.may_connect(domain, key_of("stranger"))
    assert not ALL.may_connect(domain, "")
    if domain not in CONNECTS:
        assert not any(ALL.may_connect(domain, entry.key) for entry in ALL.allowed)


def test_an_empty_list_lets_nobody_in() -> None:
    nobody = Access()
    assert not any(nobody.may_connect(d, e.key) for d in CONNECTS for e in ALL.allowed)


def test_only_the_brokers_own_role_may_end_a_run_and_only_workers_push() -> None:
    assert who_may("broker", AskStop(reason="")) == {"broker"}
    assert who_may("gradients", PUSH) == {"worker"}
    assert who_may("broker", AskStatus()) == {"worker", "ps-3", "infer", "reader", "broker"}
    assert who_may("broker", Evaluated(release=1, metrics={})) == {"infer"}


def who_may(domain: Any, message: Any) -> set[str]:
    return {e.name for e in ALL.allowed if not ALL.refusal(domain, e.key, message)}


def test_a_shard_may_have_a_release_saved_but_only_the_operator_may_go_back() -> None:
    save, back = AskRelease(save=True), AskRelease(save=True, contents_of=3)
    assert ALL.refusal("broker", key_of("ps-3"), save) == ""
    assert "going back is closed" in ALL.refusal("broker", key_of("ps-3"), back)
    assert ALL.refusal("broker", key_of("broker"), back) == ""
    assert "to which ask_release is closed" in ALL.refusal("broker", key_of("worker"), save)


def test_every_message_that_a_peer_may_say_is_one_of_the_protocol() -> None:
    kinds = set(get_args(messages.Message))
    assert {kind for roles in MAY_SAY.values() for row in roles.values() for kind in row} <= kinds


def test_a_revoked_key_may_say_nothing_though_its_connection_is_up() -> None:
    access = Access([e for e in ALL.allowed if e.name != "worker"])
    for domain, roles in MAY_SAY.items():
        for kind in roles.get("worker", ()):
            message = kind.__new__(kind)
            assert "not on the allow-list" in access.refusal(domain, key_of("worker"), message)


@pytest.mark.parametrize(
    ("owner", "message", "word"),
    [
        ("worker", hello("worker", "worker"), ""),
        ("worker", hello("worker", "other"), "not of 'other'"),
        ("worker", hello("worker", ""), "not of ''"),
        ("worker", hello("infer", "worker"), "cannot join as infer"),
        ("worker", hello("ps", "worker", 0), "cannot join as ps"),
        ("infer", hello("infer", "infer"), ""),
        ("infer", hello("follower", "infer"), ""),
        ("infer", hello("worker", "infer"), "cannot join as worker"),
        ("reader", hello("follower", "reader"), ""),
        ("reader", hello("infer", "reader"), "cannot join as infer"),
        ("reader", hello("ps", "reader", 0), "cannot join as ps"),
        ("broker", hello("follower", "broker"), "closed"),
        ("ps-3", hello("ps", "ps-3", 3), ""),
        ("ps-3", hello("ps", "ps-3", 2), "not of shard 2"),
        ("ps-3", hello("ps", "ps-2", 2), "not of 'ps-2'"),
        ("ps-3", Labelled(release=1, shard=3, version=(1, 1), crc=0), ""),
        ("ps-3", Labelled(release=1, shard=2, version=(1, 1), crc=0), "not of shard 2"),
        ("reader", Labelled(release=1, shard=3, version=(1, 1), crc=0), "closed"),
        ("reader", Evaluated(release=1, metrics={}), "closed"),
    ],
)
def test_who_joins_is_whose_key_it_is_and_joins_as_that_only(
    owner: str, message: Any, word: str
) -> None:
    refusal = ALL.refusal("broker", key_of(owner), message)
    assert (refusal == "") == (word == "")
    assert word in refusal


def test_a_session_is_attached_under_the_name_of_the_key() -> None:
    assert ALL.refusal("control", key_of("worker"), attach("worker")) == ""
    assert "not of 'other'" in ALL.refusal("control", key_of("worker"), attach("other"))
    assert "closed" in ALL.refusal("control", key_of("infer"), attach("infer"))


NAMES = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,8}\Z")
Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
ENTRIES = st.lists(
    st.builds(
        AllowedKey,
        name=NAMES,
        role=st.sampled_from(ROLES),
        key=st.text(Z85, min_size=40, max_size=40),
    ),
    unique_by=(lambda entry: entry.name, lambda entry: entry.key),
)


@given(ENTRIES)
def test_an_allow_list_is_read_as_it_was_written(entries: list[AllowedKey]) -> None:
    assert read_allow_list(write_allow_list(entries)) == (entries, [])


@given(st.text())
def test_whatever_the_text_says_every_entry_is_of_a_known_role(text: str) -> None:
    entries, _ = read_allow_list(text)
    assert all(entry.role in ROLES and len(entry.key) == 40 for entry in entries)


def test_a_line_that_is_none_is_named_and_the_others_count() -> None:
    one = allowed("a", "worker")
    text = write_allow_list([one]) + "b worker short\nc king " + key_of("c") + "\n\n"
    entries, wrong = read_allow_list(text)
    assert entries == [one]
    assert [line.split(" is ")[0] for line in wrong] == ["line 3", "line 4"]


def test_a_name_or_a_key_counts_once() -> None:
    one = allowed("a", "worker")
    again = dataclasses.replace(one, key=key_of("b"))
    other = dataclasses.replace(one, name="b", role="broker")
    entries, wrong = read_allow_list(write_allow_list([one, again, other]))
    assert entries == [one]
    assert len(wrong) == 2
