"""Garbage on every port, by seed: ``python -m fuzz ports``, short."""

from __future__ import annotations

from random import Random

import pytest

from fuzz.ports import fuzz_ports


@pytest.mark.e2e
@pytest.mark.torch
@pytest.mark.timeout(120)
def test_garbage_on_every_port_harms_nobody() -> None:
    found = fuzz_ports(Random("test"), connections=150)
    assert found.findings == []
    assert found.connections == 6 * 150
    assert set(found.grown_bytes) == {"broker", "ps-0", "ps-1", "infer"}
