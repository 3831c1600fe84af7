"""Public clients, unmodified, in environments of their own: ``pytest -m clients``.

Small ones are installed when they are not there; the others run if `make conformance` was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import httpx
import pytest

from conformance.clients import BOTH, CLIENTS, ECHO, SETTINGS, Urls, try_client
from conformance.environments import NotInstalled, is_made, pins
from conformance.nodes import running_node
from gradmq.jobs import load

pytestmark = [pytest.mark.clients, pytest.mark.e2e, pytest.mark.torch]

#: What is slower to come is left to `make conformance`.
PIP_S = 45.0
RUN_S = 40.0

#: The analyzer and the fuzzer take minutes, the openai package has tests of its own.
ASKED = ["tritonclient", "kserve"]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Urls]:
    """One of each tensor job, by job."""
    folder = tmp_path_factory.mktemp("nodes")
    with contextlib.ExitStack() as nodes:
        yield {job: nodes.enter_context(running_node(job, folder, SETTINGS)) for job in BOTH}


@pytest.mark.timeout(150)  # an environment may have to be made first
@pytest.mark.parametrize("name", ASKED)
def test_a_public_client_works_as_it_is(name: str, nodes: Urls) -> None:
    if not CLIENTS[name].in_suite and not is_made(name):
        pytest.skip(f"{name} takes too long to install here: `make conformance` does it once")
    try:
        outcome = try_client(name, nodes, PIP_S, RUN_S)
    except NotInstalled as reason:
        pytest.skip(f"{name} cannot be installed: {reason}")
    assert outcome.passed, outcome.text


def test_a_node_started_by_hand_has_the_settings_of_its_job(nodes: Urls) -> None:
    config = httpx.get(f"{nodes[ECHO]}/v2/models/echo/config").json()
    assert config["max_batch_size"] == load(ECHO).settings["infer.max_batch_size"] == 4
    assert (
        httpx.get(f"{nodes['fashion-mnist']}/v2/models/fashion-mnist/config").json()[
            "max_batch_size"
        ]
        == 64
    )


def test_every_client_is_pinned_with_all_that_it_needs() -> None:
    for name, client in CLIENTS.items():
        if client.own:
            lines = pins(name).read_text().splitlines()
            assert any(line.startswith(f"{name}==") for line in lines)
            assert all("==" in line for line in lines)
