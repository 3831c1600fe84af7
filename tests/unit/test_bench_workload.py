"""The closed form of ps-echo: it holds, and whatever is off by one is found."""

from __future__ import annotations

import numpy as np
import pytest

from gradmq.bench import workload
from gradmq.bench.workload import LR, agrees, gradients, is_exact, magnitude, model, outcome, sizes

MB = 0.01
APPLIED = {0: 5, 1: 1, 2: 1000}


@pytest.mark.parametrize("mb", [0, 0.001, 0.01, 1, 400])
def test_a_model_has_eight_tensors_of_nearly_one_size(mb: float) -> None:
    assert len(sizes(mb)) == 8
    assert sum(sizes(mb)) == max(8, mb * 1e6 / 4)
    assert max(sizes(mb)) - min(sizes(mb)) <= 1


@pytest.mark.parametrize("mb", [0.001, 0.2, 12])
def test_gradients_are_whole_numbers_that_differ_by_worker_and_tensor(mb: float) -> None:
    one, two = gradients(mb, 0), gradients(mb, 1)
    for name, vector in one.items():
        assert vector.dtype == np.float32
        assert set(vector.tolist()) <= set(range(1, magnitude(mb) + 1))
        assert not np.array_equal(vector, two[name])
    assert not np.array_equal(one["tensor0"][:50], one["tensor1"][:50])


def test_the_closed_form_is_what_plain_sgd_comes_to_in_any_order() -> None:
    parameters = model(MB)
    pushes = [worker for worker, count in APPLIED.items() for _ in range(count)]
    for place in np.random.default_rng(1).permutation(len(pushes)):
        for name, gradient in gradients(MB, pushes[place]).items():
            parameters[name] -= np.float32(LR) * gradient
    assert agrees(MB, APPLIED, parameters)
    for name, vector in outcome(MB, APPLIED).items():
        assert parameters[name].tobytes() == vector.tobytes()


@pytest.mark.parametrize(
    "other", [{0: 4, 1: 1, 2: 1000}, {0: 5, 1: 2, 2: 1000}, {0: 1, 1: 5, 2: 1000}, {0: 5, 2: 1000}]
)
def test_a_count_that_is_off_by_one_or_swapped_is_found(other: dict[int, int]) -> None:
    assert not agrees(MB, other, outcome(MB, APPLIED))


def test_one_wrong_element_is_found_wherever_it_is() -> None:
    for name, place in (("tensor0", 0), ("tensor3", 17), ("tensor7", -1)):
        parameters = outcome(MB, APPLIED)
        parameters[name][place] = np.nextafter(parameters[name][place], np.float32(1))
        assert not agrees(MB, APPLIED, parameters)


def test_values_in_another_place_are_found() -> None:
    shifted = {name: np.roll(vector, 1) for name, vector in outcome(MB, APPLIED).items()}
    swapped = outcome(MB, APPLIED)
    swapped["tensor6"], swapped["tensor7"] = swapped["tensor7"], swapped["tensor6"]
    missing = outcome(MB, APPLIED)
    del missing["tensor7"]
    doubles = {name: vector.astype(np.float64) for name, vector in outcome(MB, APPLIED).items()}
    for parameters in (shifted, swapped, missing, doubles):
        assert not agrees(MB, APPLIED, parameters)


@pytest.mark.parametrize("mb", [0.1, 12])
def test_a_part_of_the_wire_or_a_block_in_anothers_place_would_show(mb: float) -> None:
    assert (1 << 18) % magnitude(mb) != 0
    assert (1 << 16) % magnitude(mb) != 0


def test_pushes_are_counted_against_what_float32_can_hold() -> None:
    most = (workload.EXACT_UNITS - 1) // magnitude(MB)
    assert is_exact(MB, [most - 7, 7])
    assert not is_exact(MB, [most, 1])
    held = outcome(MB, {0: most})
    assert not np.array_equal(held["tensor0"], outcome(MB, {0: most - 1})["tensor0"])


def test_zero_of_either_sign_is_told_apart() -> None:
    parameters = outcome(MB, {0: 0})
    assert agrees(MB, {0: 0}, parameters)
    parameters["tensor0"][0] = -parameters["tensor0"][0]
    assert not agrees(MB, {0: 0}, parameters)
