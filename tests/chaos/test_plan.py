"""A seed gives the same faults again, and every kind of them."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from random import Random

from chaos.plan import HOST_FAULTS, KILLS, PROXY_FAULTS, faults
from chaos.round import failpoint_names

NETWORK = (*PROXY_FAULTS, *HOST_FAULTS)


def test_a_seed_gives_the_same_faults() -> None:
    one, other, third = (
        list(islice(faults(Random(seed), NETWORK, failpoint_names()), 200)) for seed in "aab"
    )
    assert one == other != third


def test_every_fault_every_role_and_every_failpoint_has_its_turn() -> None:
    names = failpoint_names()
    drawn = list(islice(faults(Random("all"), NETWORK, names), 3000))
    assert {fault.kind for fault in drawn} == {"kill", "pause", *NETWORK}
    assert {fault.role for fault in drawn if fault.kind == "kill"} == set(KILLS)
    armed = Counter(fault.failpoints.partition("=")[0] for fault in drawn)
    assert set(armed) == {"", *names}


def test_without_a_network_nothing_is_done_to_it() -> None:
    drawn = islice(faults(Random("none"), (), []), 500)
    assert {fault.kind for fault in drawn} == {"kill", "pause"}
