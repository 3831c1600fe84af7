"""``gradmq bench`` as its user starts it: what it prints, and that it ends cleanly."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from gradmq.bench import limits, publish
from gradmq.bench.crew import Crew
from gradmq.bench.echo import EchoCase
from gradmq.bench.hosts import Hosts, NoHosts, require_namespaces
from gradmq.bench.peers import compare
from gradmq.bench.push import echo
from gradmq.config import all_keys
from gradmq.errors import RoleFailed, WaitTimeout

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

TRANSPORTS = ["tcp"]
if "network.transport" in {key for key, *_ in all_keys()}:
    TRANSPORTS.append("shm")

FLOATS = {
    "grads_per_s", "gb_per_s", "p50_ms", "p99_ms", "server_cpu_s_per_gb", "total_cpu_s_per_gb",
    "server_rss_mb", "start_s", "join_s", "sgd_loop_gb_per_s", "memcpy_gb_per_s",
    "tcp_echo_gb_per_s", "of_sgd_loop", "of_memcpy", "of_tcp_echo", "mb", "seconds", "warmup",
}  # fmt: skip


def bench(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "gradmq", "bench", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize(
    ("transport", "keys"), [*((transport, []) for transport in TRANSPORTS), ("tcp", ["--keys"])]
)
def test_push_prints_all_figures_and_finds_the_parameters_right(
    transport: str, keys: list[str]
) -> None:
    done = bench(
        "push", "--mb", 0.1, "--workers", 2, "--seconds", 0.5, "--warmup", 0.2,
        "--transport", transport, "--json", *keys,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    *_, last = done.stdout.splitlines()
    assert "SGD loop" in done.stdout
    found = json.loads(last)
    words = {"workers", "transport", "in_flight", "shards", "durability", "keys", "correct"}
    assert found.keys() == FLOATS | words
    assert found["keys"] is bool(keys)
    assert ("tcp + keys" in done.stdout) is bool(keys)
    assert found["correct"] is True
    assert all(isinstance(found[key], float) and found[key] > 0 for key in FLOATS)
    assert (found["workers"], found["in_flight"], found["shards"]) == (2, 1, 1)
    assert found["transport"] == transport
    assert found["p50_ms"] <= found["p99_ms"]
    assert found["server_cpu_s_per_gb"] < found["total_cpu_s_per_gb"]


def test_a_wrong_argument_is_one_line() -> None:
    done = bench("push", "--mb", 0)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "--mb" in done.stderr


@pytest.mark.parametrize(
    ("words", "module"),
    [
        ("push --warmup 60 --seconds 0.1", "gradmq.bench.echo_worker"),
        pytest.param(
            "infer beside --seconds 60", "gradmq.bench.infer.clients", marks=pytest.mark.torch
        ),
    ],
)
def test_a_signal_ends_it_and_everything_it_started(
    words: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with subprocess.Popen(
        [sys.executable, "-m", "gradmq", "bench", *words.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        wait_for_module(process, module)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, b"")
    assert list(tmp_path.iterdir()) == []


def wait_for_module(process: subprocess.Popen[bytes], module: str) -> None:
    """Until a child of this process runs that module; one that has just ended has no command."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for child in psutil.Process(process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if module in child.cmdline():
                    return
        time.sleep(0.05)
    raise AssertionError(f"no child became {module}")


def test_a_child_that_ends_early_is_named_with_its_last_words() -> None:
    spec = {"role": "client", "port": 1, "nbytes": 1}
    with Crew() as crew:
        crew.start("lost", "gradmq.bench.tcp_echo", spec)
        with pytest.raises(RoleFailed, match=r"^lost ended early: .*Connection refused"):
            crew.expect("connected", 30)


def test_a_child_that_says_nothing_is_named_and_ended() -> None:
    with Crew() as crew:
        crew.start("mute", "gradmq.bench.tcp_echo", {"role": "server"})
        crew.expect("listening", 30)
        with pytest.raises(WaitTimeout, match=r"for mute to say 'connected'"):
            crew.expect("connected", 0.01)


def test_the_limits_are_measured_with_any_number_of_connections() -> None:
    found = limits.measure(0.01, workers=3, seconds=0.05)
    assert found.sgd_loop_gb_per_s > 0
    assert found.memcpy_gb_per_s > 0
    assert found.tcp_echo_gb_per_s > 0


def test_workers_that_share_a_process_and_keep_a_pace_are_held_to_the_closed_form_too() -> None:
    case = EchoCase(0.02, 3, "auto", in_flight=3, shards=2, seconds=0.4, warmup=0.1)
    run = echo(case, every_s=0.02, per_process=2)
    assert run.figures.correct
    assert len(run.latencies_ms) > 0


def test_fan_out_is_measured_with_and_without_a_subscriber_that_does_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publish, "SETTLE_S", 0.1)
    result = publish.measure(0.01, subscribers=2, seconds=0.3)
    assert result.correct
    assert [len(rates) for rates in result.per_s] == [2, 2, 2, 2]
    assert min(result.per_s[0]) > 0


@pytest.mark.torch
def test_a_peer_runs_the_same_work_to_the_same_outcome() -> None:
    (gloo,) = (peer for peer in compare.PEERS if peer.name.startswith("gloo"))
    case = EchoCase(0.1, 2, "auto", 1, 1, seconds=0.3, warmup=0.1)
    result = compare.one(gloo, case)
    assert result.reason == ""
    assert result.run is not None
    assert result.run.figures.correct
    assert compare.one(gloo, replace(case, workers=1)).reason == "needs 2 workers"
    absent = compare.Peer("absent", "no_such_module", compare.own()[0].run)
    assert compare.one(absent, case).reason == "not installed"


@pytest.mark.root
def test_hosts_reach_the_hub_over_limited_links_and_go_with_the_block() -> None:
    try:
        require_namespaces()
    except NoHosts as reason:
        pytest.skip(f"network namespaces: {reason}")

    def names() -> str:
        return subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout

    hosts = Hosts(2, mbit=200)

    def reach_the_hub() -> None:
        with hosts:
            assert all(name in names() for name in (hosts.hub, *hosts.names))
            listening = [*hosts.on(hosts.hub), sys.executable, "-c", LISTEN]
            with subprocess.Popen(listening, stdout=subprocess.PIPE) as hub:
                assert hub.stdout is not None
                hub.stdout.readline()
                for name in hosts.names:
                    talk = [*hosts.on(name), sys.executable, "-c", TALK]
                    subprocess.run(talk, check=True, timeout=20)
            sent, received = hosts.wire_bytes()
            assert sent > 0
            assert received > 2 * 100_000
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reach_the_hub()
    assert hosts.hub not in names()


LISTEN = """
import socket
with socket.create_server(("10.98.0.1", 5550)) as listener:
    print(flush=True)
    for _ in range(2):
        with listener.accept()[0] as connection:
            while connection.recv(65536): pass
"""
TALK = """
import socket
with socket.create_connection(("10.98.0.1", 5550), 10) as connection:
    connection.sendall(bytes(100_000))
"""
