"""What goes wrong next: drawn by seed, without a clock: a seed gives the same faults again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

#: What is killed, and how often of a hundred kills.
KILLS = {"ps": 52, "worker": 26, "broker": 12, "follower": 6, "infer": 4}

#: Longer than a lease: the broker gives up whoever is paused for so long.
LONG_PAUSE_S = 11.5

#: What the proxy does, and what is done between hosts.
PROXY_FAULTS = ("delay", "drip", "corrupt", "reset", "deaf", "mute", "cut")
HOST_FAULTS = ("loss", "deaf", "mute", "cut")

#: A shard saves its release at least so often; what it saved is what it remembers.
SAVED_S = 1.2


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong, and for how long; then comes ``rest_s`` until the next."""

    kind: str
    """kill, pause, or one of the network's."""
    role: str
    """Whose process; of a fault of the network "": the driver has no choice of its own."""
    pick: float
    """Which one of those, as a part of 1."""
    lasts_s: float
    rest_s: float
    quiet: bool = False
    """Of a broker: first let all be well, then do nothing else until it is back."""
    failpoints: str = ""
    """With what a killed process is started again."""


def faults(random: Random, network: Sequence[str], failpoints: Sequence[str]) -> Iterator[Fault]:
    """Without end. ``network``: faults that can be made here; ``failpoints``: names of a shard."""
    while True:
        chance = random.random()
        if chance < 0.10:
            yield _pause(random)
        elif chance < 0.18:
            yield from _answers_not_heard(random, network)
        elif network and chance < 0.30:
            yield Fault(random.choice(network), "", random.random(), random.uniform(0.5, 4.0),
                        random.uniform(0.2, 1.0))  # fmt: skip
        else:
            yield _kill(random, failpoints)


def _pause(random: Random) -> Fault:
    role = random.choice(["ps", "worker", "worker", "broker", "follower", "infer"])
    is_long = role != "ps" and random.random() < 0.08
    lasts_s = LONG_PAUSE_S if is_long else random.uniform(0.1, 3.0)
    return Fault("pause", role, random.random(), lasts_s, random.uniform(0.1, 1.0))


def _answers_not_heard(random: Random, network: Sequence[str]) -> Iterator[Fault]:
    """A shard decided, saved and died, and workers never heard: they ask its next life."""
    part = random.random()
    if "deaf" in network and random.random() < 0.5:
        yield Fault("deaf", "", random.random(), SAVED_S + 1.0, SAVED_S)
    else:
        # While the shard is paused, what is pushed to it piles up.
        yield Fault("pause", "ps", part, 0.4, 0.3)
        yield Fault("pause", "worker", random.random(), SAVED_S + 1.0, SAVED_S + 0.2)
    yield Fault("kill", "ps", part, random.choice([0.0, 0.5]), random.uniform(0.5, 1.0))


def _kill(random: Random, failpoints: Sequence[str]) -> Fault:
    (role,) = random.choices(list(KILLS), list(KILLS.values()))
    quiet = role == "broker" and random.random() < 0.6
    lasts_s = (
        random.uniform(1.0, 2.5) if quiet else random.choice([0.0, 0.1, 1.0]) * random.random()
    )
    armed = ""
    if failpoints and role == "ps" and random.random() < 0.5:
        name = random.choice(failpoints)
        armed = f"{name}={_what(random, name)}@{random.choice([1, 1, 2, 2, 3, 5])}"
    elif role == "broker" and random.random() < 0.25:
        durable = [name for name in failpoints if name.startswith("durable.")]
        armed = f"{random.choice(durable)}=kill@{random.choice([1, 2, 3])}" if durable else ""
    return Fault("kill", role, random.random(), lasts_s, random.uniform(0.1, 1.6), quiet, armed)


def _what(random: Random, name: str) -> str:
    """Mostly a kill; now and then a disk that is slow, or that a release cannot be written to."""
    chance = random.random()
    if chance < 0.1:
        return "sleep:0.5"
    return "error" if chance < 0.2 and name.startswith("checkpoint.") else "kill"
