"""Staleness rules, and the settings that name them."""

from __future__ import annotations

from typing import Any

import pytest

from gradmq.errors import SettingsError
from gradmq.ps.policy import Bounded, Unbounded, policy_from


def test_bounded_applies_up_to_its_bound_and_rejects_beyond() -> None:
    admitted = [Bounded(2).admit(staleness).apply for staleness in range(5)]
    assert admitted == [True, True, True, False, False]


def test_unbounded_applies_everything() -> None:
    assert Unbounded().admit(1 << 40).apply


def test_neither_changes_the_weight() -> None:
    assert {rule.admit(1).weight for rule in (Bounded(1), Unbounded())} == {1.0}


@pytest.mark.parametrize("rule", [Bounded(0), Bounded(8), Unbounded()])
def test_a_rule_comes_back_from_its_settings(rule: Bounded | Unbounded) -> None:
    assert policy_from(rule.settings()) == rule


@pytest.mark.parametrize("bound", [-1, 1.5, "8", None, True])
def test_a_bound_is_a_whole_number_from_zero_on(bound: Any) -> None:
    with pytest.raises(SettingsError, match="staleness bound is"):
        Bounded(bound)


def test_an_unknown_rule_is_named() -> None:
    with pytest.raises(SettingsError, match="staleness rule 'strict' is unknown; use bounded or"):
        policy_from({"rule": "strict"})
