"""Hosts made of network namespaces: a hub, and others that each reach it over a limited link.

Addresses are those of the namespaces alone. All namespaces, and with them links and addresses, are
deleted when the ``with`` block ends.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from gradmq.errors import GradmqError

#: An address of the hub that every other host has a route to.
HUB_ADDRESS = "10.98.0.1"

#: The queue of a link: as a switch has it, so that TCP finds the rate and nothing waits long.
QUEUE = ("burst", "128kb", "latency", "50ms")

COMMAND_S = 20.0

#: Of the names of namespaces; then comes the process that made them.
PREFIX = "gradmq-bench-"


class NoHosts(GradmqError):
    """Network namespaces cannot be made here; the text says why."""


class Hosts:
    """A hub and so many hosts around it; every link carries ``mbit`` a second each way."""

    def __init__(self, count: int, mbit: int) -> None:
        self.hub = f"{PREFIX}{os.getpid()}-hub"
        self.names = [f"{PREFIX}{os.getpid()}-{place}" for place in range(count)]
        self.addresses = [f"10.98.{place + 1}.2" for place in range(count)]
        self._mbit = mbit
        self._stack = ExitStack()

    def __enter__(self) -> Hosts:
        require_namespaces()
        self._delete_left_over()
        with ExitStack() as stack:
            for name in (self.hub, *self.names):
                self._run("ip", "netns", "add", name)
                # Takes the ends of its links along, and with them their other ends.
                stack.callback(subprocess.run, ["ip", "netns", "del", name], timeout=COMMAND_S)
                self._run("ip", "-n", name, "link", "set", "lo", "up")
            self._run("ip", "-n", self.hub, "addr", "add", f"{HUB_ADDRESS}/32", "dev", "lo")
            for place in range(len(self.names)):
                self._connect(place)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def on(self, name: str) -> list[str]:
        """What runs a command there: ``[*hosts.on(name), "python", …]``."""
        return ["ip", "netns", "exec", name]

    def wire_bytes(self) -> tuple[float, float]:
        """Bytes that went from the hub and to the hub so far, headers and all, over all links."""
        sent = received = 0.0
        for place in range(len(self.names)):
            text = self._run("ip", "-n", self.hub, "-j", "-s", "link", "show", "dev", _end(place))
            stats = json.loads(text)[0]["stats64"]
            sent += stats["tx"]["bytes"]
            received += stats["rx"]["bytes"]
        return sent, received

    def _connect(self, place: int) -> None:
        name, net = self.names[place], f"10.98.{place + 1}"
        self._run("ip", "link", "add", _end(place), "netns", self.hub, "type", "veth",
                  "peer", "name", "eth0", "netns", name)  # fmt: skip
        for host, device, address in (
            (self.hub, _end(place), f"{net}.1"),
            (name, "eth0", f"{net}.2"),
        ):
            self._run("ip", "-n", host, "addr", "add", f"{address}/24", "dev", device)
            self._run("ip", "-n", host, "link", "set", device, "up")
            self._run("tc", "-n", host, "qdisc", "add", "dev", device, "root", "tbf",
                      "rate", f"{self._mbit}mbit", *QUEUE)  # fmt: skip
        self._run("ip", "-n", name, "route", "add", HUB_ADDRESS, "via", f"{net}.1")

    def _delete_left_over(self) -> None:
        """Delete the namespaces of benchmarks that were killed before they could."""
        for line in self._run("ip", "netns", "list").splitlines():
            name = line.split()[0]
            maker = name.removeprefix(PREFIX).partition("-")[0]
            if name.startswith(PREFIX) and not Path("/proc", maker).exists():
                self._run("ip", "netns", "del", name)

    def _run(self, *words: str) -> str:
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=COMMAND_S)
        except subprocess.TimeoutExpired:
            raise NoHosts(f"{' '.join(words)}: no end after {COMMAND_S:g} s") from None
        if done.returncode:
            raise NoHosts(f"{' '.join(words)}: {done.stderr.strip() or 'failed'}")
        return done.stdout


def require_namespaces() -> None:
    """Raise NoHosts unless this process may make them."""
    if os.geteuid() != 0:
        raise NoHosts("needs root")
    for command in ("ip", "tc"):
        if shutil.which(command) is None:
            raise NoHosts(f"needs the command {command} (Debian: iproute2)")


def _end(place: int) -> str:
    return f"link{place}"
