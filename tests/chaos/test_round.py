"""A run whose processes are killed again and again keeps its promises: ``make chaos``, short."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from chaos.__main__ import report
from chaos.network import NETWORKS
from chaos.round import Round
from chaos.run import Case

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.timeout(200)]


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
