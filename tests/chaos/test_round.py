"""A run whose processes are killed again and again keeps its promises: ``make chaos``, short."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import psutil
import pytest

from chaos.__main__ import report
from chaos.network import NETWORKS
from chaos.roles import TOOLS
from chaos.round import Round
from chaos.run import Case

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.timeout(200)]


DRIVER = """
import os, sys, time
from pathlib import Path
from random import Random
from chaos.network import NETWORKS
from chaos.run import Case, TracedRun
folder = Path(sys.argv[1])
with NETWORKS["direct"](2, Random(0)) as network:
    run = TracedRun(Case("direct", "memory", pushes=6000), network, folder)
    run.begin()
    print(*[role.pid for role in run.roles], flush=True)
    os.kill(os.getpid(), 9)
"""


def test_a_driver_that_is_killed_leaves_nobody_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-c", DRIVER, str(tmp_path)]
    path = os.pathsep.join([str(TOOLS), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, timeout=100)
    assert ended.returncode == -signal.SIGKILL
    pids = {int(pid) for pid in ended.stdout.split()}
    roles = [process for process in psutil.process_iter() if process.pid in pids]
    _, alive = psutil.wait_procs(roles, timeout=30)
    assert len(pids) == 9 and not alive


def test_forty_kills_lose_nothing_that_was_promised(tmp_path: Path) -> None:
    case = Case("proxy", "journal")
    with NETWORKS[case.network](case.shards, Random(5)) as network:
        # How long things take is measured by ``make chaos``, on a machine of its own.
        round_ = Round(case, network, tmp_path, 5, kills=40, hurry=3.0, directory_s=60.0)
        findings = round_.run()
    assert findings.good, report(round_.done, findings)
    assert round_.done.kills.total() >= 40
    assert {"ps", "broker", "worker"} <= set(round_.done.kills)
    assert findings.looked_at["applied"] > 100
    assert findings.looked_at["releases"] > 5
