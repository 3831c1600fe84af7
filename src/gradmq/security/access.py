"""Who may connect where, and say what; pure.

An allow-list names every key, whose it is and its owner's role. A connection proves its key once;
what comes over it is judged anew by that key, message by message, so that a revoked one is refused
on connections that are up already.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal, get_args

from gradmq.wire.messages import (
    AllowedKey,
    AskReadmit,
    AskRelease,
    AskStatus,
    AskStop,
    Attach,
    Detach,
    Evaluated,
    Fetch,
    Goodbye,
    Hello,
    KeyRole,
    Labelled,
    Message,
    Push,
    Query,
    Renew,
    Role,
    Saved,
    Seed,
)

Domain = Literal["broker", "gradients", "parameters", "control"]
"""One per kind of listening socket: the broker's, and a shard's three."""

#: What stands in a file name and in a line of the allow-list.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)

#: A public key as it is written: Z85, which has neither blanks nor quotes.
KEY_CHARACTERS = 40

ROLES: tuple[KeyRole, ...] = get_args(KeyRole)

_MEMBER = frozenset({Hello, Renew, Goodbye, AskStatus})

#: The whole matrix. Who is not in the row of a socket cannot connect to it at all.
MAY_SAY: Mapping[Domain, Mapping[KeyRole, frozenset[type[Message]]]] = {
    "broker": {
        "worker": _MEMBER,
        "ps": _MEMBER | {Labelled, Saved, AskRelease},
        "infer": _MEMBER | {Evaluated},
        "reader": _MEMBER,
        "broker": frozenset({AskStatus, AskRelease, AskStop, AskReadmit}),
    },
    "gradients": {"worker": frozenset({Push})},
    "parameters": {"worker": frozenset(), "infer": frozenset(), "reader": frozenset()},
    "control": {
        "worker": frozenset({Attach, Query, Detach, Seed, Fetch}),
        "infer": frozenset({Fetch}),
        "reader": frozenset({Fetch}),
        "broker": frozenset({Fetch}),
    },
}

#: As what the owner of a key may join.
JOINS_AS: Mapping[KeyRole, frozenset[Role]] = {
    "worker": frozenset({"worker"}),
    "ps": frozenset({"ps"}),
    "infer": frozenset({"infer", "follower"}),
    "reader": frozenset({"follower", "observer"}),
    "broker": frozenset(),
}


class Access:
    """One allow-list, for look-ups; never changed, only replaced by the next one."""

    def __init__(self, allowed: Iterable[AllowedKey] = ()) -> None:
        self.allowed = tuple(allowed)
        self._by_key = {entry.key: entry for entry in self.allowed}

    def knows(self, key: str) -> bool:
        return key in self._by_key

    def name_of(self, key: str) -> str:
        """Whose key it is; "" if nobody's."""
        entry = self._by_key.get(key)
        return entry.name if entry else ""

    def revoked_since(self, before: Access) -> list[str]:
        """Whose keys were on that list and are not on this one, or in another role."""
        allowed = frozenset(self.allowed)
        return [entry.name for entry in before.allowed if entry not in allowed]

    def may_connect(self, domain: str, key: str) -> bool:
        """Whether the owner of this key has any business at such a socket."""
        entry = self._by_key.get(key)
        for known, by_role in MAY_SAY.items():
            if known == domain:
                return entry is not None and entry.role in by_role
        return False

    def refusal(self, domain: Domain, key: str, message: Message) -> str:
        """Why this message must not be heard from the owner of this key; "" if it may."""
        entry = self._by_key.get(key)
        if entry is None:
            return "this key is not on the allow-list, or not any more"
        if type(message) not in MAY_SAY[domain].get(entry.role, ()):
            return f"{entry.name} has a key of role {entry.role}, to which {message.KIND} is closed"
        match message:
            case Hello():
                return _refuse_hello(entry, message)
            case Attach() if message.name != entry.name:
                return f"the key is that of {entry.name}, not of {message.name!r}"
            case AskRelease() if entry.role == "ps" and message.contents_of is not None:
                return f"{entry.name} has a key of role ps, to which going back is closed"
            case Labelled() | Saved() if entry.name != ps_name(message.shard):
                return f"the key is that of {entry.name}, not of shard {message.shard}"
            case _:
                return ""


def ps_name(shard: int) -> str:
    """What the process of a shard is called, and so its key."""
    return f"ps-{shard}"


def _refuse_hello(entry: AllowedKey, hello: Hello) -> str:
    if hello.role not in JOINS_AS[entry.role]:
        return f"{entry.name} has a key of role {entry.role}, which cannot join as {hello.role}"
    if hello.name != entry.name:
        return f"the key is that of {entry.name}, not of {hello.name!r}"
    if hello.role == "ps" and hello.name != ps_name(hello.shard or 0):
        return f"the key is that of {entry.name}, not of shard {hello.shard}"
    return ""


# -- as text ---------------------------------------------------------------------------------------


def read_allow_list(text: str) -> tuple[list[AllowedKey], list[str]]:
    """The entries of an allow-list, and what is wrong with the lines that are none.

    A line is ``NAME ROLE PUBLIC-KEY``; empty ones and those that begin with # say nothing. A name
    or key that stands twice counts the first time.
    """
    entries: list[AllowedKey] = []
    seen: set[str] = set()
    wrong: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or line.startswith("#"):
            continue
        entry = _entry(words)
        if entry is None:
            wrong.append(f"line {number} is not NAME ROLE KEY with a role of {', '.join(ROLES)}")
        elif seen & {entry.name, entry.key}:
            wrong.append(f"line {number} has a name or key that stands above already")
        else:
            seen |= {entry.name, entry.key}
            entries.append(entry)
    return entries, wrong


def _entry(words: list[str]) -> AllowedKey | None:
    if len(words) != 3:
        return None
    name, role, key = words
    for known in ROLES:
        if known == role and NAME.fullmatch(name) and len(key) == KEY_CHARACTERS:
            return AllowedKey(name=name, role=known, key=key)
    return None


def write_allow_list(entries: Iterable[AllowedKey]) -> str:
    """The text of which ``read_allow_list`` makes these entries again."""
    head = "# NAME ROLE PUBLIC-KEY: written by `gradmq keys`, followed by the broker as it runs\n"
    return head + "".join(f"{e.name} {e.role} {e.key}\n" for e in entries)
