"""The factor of a float16 loss."""

from __future__ import annotations

from common.training.loss_scale import GROWTH_STEPS, START, LossScale


def test_the_factor_halves_after_an_overflow_and_doubles_after_many_finite_steps():
    scale = LossScale()
    scale.update(finite=False)
    assert scale.value == START / 2
    for _ in range(GROWTH_STEPS - 1):
        scale.update(finite=True)
    assert scale.value == START / 2
    scale.update(finite=True)
    assert scale.value == START


def test_an_overflow_begins_the_count_anew():
    scale = LossScale()
    for finite in [True] * (GROWTH_STEPS - 1) + [False] + [True] * (GROWTH_STEPS - 1):
        scale.update(finite)
    assert scale.value == START / 2


def test_what_is_saved_goes_on_as_before():
    first, second = LossScale(), LossScale()
    for finite in (True, False, True):
        first.update(finite)
    second.restore(first.state())
    assert (second.value, second.steps) == (first.value, first.steps) == (START / 2, 1)
