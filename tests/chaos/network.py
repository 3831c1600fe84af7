"""Where the roles of a run are, how they reach each other, and what can go wrong between them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from random import Random

from chaos.plan import HOST_FAULTS, PROXY_FAULTS
from chaos.proxy import Proxy
from gradmq.bench.hosts import HUB_ADDRESS, Hosts, NoHosts, require_namespaces

#: Of the links between hosts; more than two cores can use.
MBIT = 2000

COMMAND_S = 20.0


class Network:
    """Entered before any role is started, left after all have ended."""

    faults: Sequence[str] = ()
    transport = "auto"
    address = "127.0.0.1"
    """Where broker, shards and nodes listen, and where others are told to connect to."""

    def __init__(self, shards: int, random: Random) -> None:
        first = free_ports(2 + 3 * shards)
        self.broker_port, self.http_port = first, first + 1
        self.shard_ports = [first + 2 + 3 * shard for shard in range(shards)]
        self.random = random
        self.stack = ExitStack()

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    @property
    def broker(self) -> str:
        """What members are told."""
        return f"tcp://{self.advertised}:{self.broker_port}"

    @property
    def advertised(self) -> str:
        return self.address

    def listen(self) -> list[str]:
        """Of a role that listens: where, and what others are told."""
        return ["--bind", self.address, "--advertise", self.advertised]

    def within(self, role: str, place: int) -> list[str]:
        """What runs this role's command where it belongs."""
        return []

    def begin(self, fault: str, pick: float) -> None:
        """Let this go wrong, until ``heal``."""

    def heal(self) -> None:
        """Let nothing be wrong."""


class Direct(Network):
    """One host, nothing between: shared memory and loopback."""


class Proxied(Network):
    """One host; everything, payloads too, goes through a proxy."""

    faults = PROXY_FAULTS
    transport = "tcp"

    @property
    def advertised(self) -> str:
        return "127.0.0.2"

    def __enter__(self) -> Network:
        ports = [self.broker_port, *(p + i for p in self.shard_ports for i in range(3))]
        proxy = Proxy(self.random, self.advertised, self.address, ports)
        self.proxy = self.stack.enter_context(proxy)
        return self

    def begin(self, fault: str, pick: float) -> None:
        self.proxy.set(fault)

    def heal(self) -> None:
        self.proxy.set("")


class Namespaces(Network):
    """Broker and shards on one host, workers and nodes on two others; needs root."""

    faults = HOST_FAULTS
    transport = "tcp"
    address = HUB_ADDRESS

    def __enter__(self) -> Network:
        require_hosts()
        self.hosts = self.stack.enter_context(Hosts(2, MBIT))
        self._ill = ""
        return self

    def listen(self) -> list[str]:
        return [*super().listen(), "--insecure"]

    def within(self, role: str, place: int) -> list[str]:
        if role in ("broker", "ps", "status"):
            return self.hosts.on(self.hosts.hub)
        return self.hosts.on(self.hosts.names[place % 2])

    def begin(self, fault: str, pick: float) -> None:
        self.heal()
        self._ill = self.hosts.names[int(2 * pick)]
        self._nft("\n".join(["table inet chaos {", *_chains(fault), "}"]))

    def heal(self) -> None:
        if self._ill:
            self._nft("delete table inet chaos")
            self._ill = ""

    def _nft(self, rules: str) -> None:
        command = [*self.hosts.on(self._ill), "nft", "-f", "-"]
        subprocess.run(command, input=rules, text=True, check=True, timeout=COMMAND_S)


def _chains(fault: str) -> list[str]:
    """loss: of every tenth packet; deaf, mute, cut: of all that come, go, come and go."""
    match = "numgen random mod 10 < 1 drop" if fault == "loss" else "drop"
    hooks = {"deaf": ["input"], "mute": ["output"]}.get(fault, ["input", "output"])
    interface = {"input": "iifname", "output": "oifname"}
    return [
        f"chain {hook} {{ type filter hook {hook} priority 0; {interface[hook]} != lo {match}; }}"
        for hook in hooks
    ]


def require_hosts() -> None:
    """Raise NoHosts unless namespaces can be made here and packets dropped in them."""
    require_namespaces()
    if shutil.which("nft") is None:
        raise NoHosts("needs the command nft (Debian: nftables)")


def free_ports(count: int) -> int:
    """The first of so many free ports in a row, below those that the system gives away."""
    for first in range(10_000 + os.getpid() * 37 % 9_000, 32_000, count):
        if all(map(_is_free, range(first, first + count))):
            return first
    raise AssertionError("no free ports")


def _is_free(port: int) -> bool:
    for host in ("127.0.0.1", "127.0.0.2"):
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                return False
    return True


NETWORKS: dict[str, type[Network]] = {
    "direct": Direct,
    "proxy": Proxied,
    "hosts": Namespaces,
}
