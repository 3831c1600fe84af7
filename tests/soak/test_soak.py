"""What grows is found, what only warms up is not; and a soak of seconds begins, looks and ends."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from chaos.network import NETWORKS
from chaos.run import DURABILITIES, Case
from soak.__main__ import Soak
from soak.growth import MAY_RISE_MB, growth

TIMES = [float(second) for second in range(180)]


def test_the_slope_is_that_of_the_line_after_the_warm_up() -> None:
    values = [40 + 10 * min(at / 60, 1) + 0.5 * at / 3600 for at in TIMES]
    found = growth(TIMES, values)
    assert found.per_hour == pytest.approx(0.5)
    assert (found.first, found.last) == (values[60], values[179])
    assert found.rise < MAY_RISE_MB


def test_what_leaks_with_every_restart_rises() -> None:
    values = [50 + 2.0 * (at // 20) for at in TIMES]
    assert growth(TIMES, values).rise > MAY_RISE_MB
    assert growth(TIMES, [50.0] * len(TIMES)).per_hour == 0.0


def test_one_high_moment_is_no_slope() -> None:
    values = [50.0] * len(TIMES)
    values[120] = 90.0
    found = growth(TIMES, values)
    assert (found.most, abs(found.rise) < 1.0) == (90.0, True)


@pytest.mark.e2e
@pytest.mark.torch
@pytest.mark.timeout(120)
def test_a_short_soak_looks_at_every_role(tmp_path: Path) -> None:
    case = Case("direct", DURABILITIES[0], pushes=1200, staleness="unbounded")
    with NETWORKS[case.network](case.shards, Random(0)) as network:
        soak = Soak(case, network, tmp_path)
        figures = soak.run(4.0)
    assert soak.failures == []
    assert set(figures) == {
        "broker-0", "ps-0", "ps-1", "worker-0", "worker-1", "follower-1", "infer-1"
    }  # fmt: skip
    assert all(len(rows) >= 2 for rows in figures.values())
    assert min(soak.versions) > 50
