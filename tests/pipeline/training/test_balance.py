"""The weights found while training."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.training.balance import FIRST, ContentWeights

CPU = torch.device("cpu")
BOTH = torch.eye(2)


def answer(weights: Tensor, hardness: Tensor) -> Tensor:
    """How far from the photo a network would be with these weights: less with more."""
    return hardness / (1 + weights)


def test_each_style_gets_the_weight_that_brings_it_to_the_target() -> None:
    control = ContentWeights([FIRST] * 2, target=0.5, fixed=0.0, device=CPU)
    hardness = torch.tensor([0.7, 20.0])
    for _ in range(1500):
        control.update(BOTH, answer(control.of(BOTH), hardness))
    assert control.of(BOTH).tolist() == pytest.approx([0.4, 39.0], rel=0.05)


def test_a_blend_has_a_weight_between_those_of_its_styles_and_teaches_both() -> None:
    control = ContentWeights([FIRST] * 3, target=0.5, fixed=0.0, device=CPU)
    control.logarithms = torch.tensor([0.0, 2.0, 4.0])
    mix = torch.tensor([[0.5, 0.5, 0.0]])
    assert control.of(mix).log().tolist() == pytest.approx([1.0])
    control.update(mix, torch.tensor([0.75]))
    first, second, third = control.logarithms.tolist()
    assert first == pytest.approx(second - 2.0, abs=1e-5)
    assert first > 0.0
    assert third == 4.0


def test_weights_stay_within_reason() -> None:
    control = ContentWeights([FIRST] * 2, target=0.5, fixed=0.0, device=CPU)
    for _ in range(3000):
        control.update(BOTH, torch.tensor([2.0, 0.0]))
    assert control.of(BOTH).tolist() == pytest.approx([100.0, 0.01], rel=1e-3)


def test_a_fixed_weight_is_fixed() -> None:
    control = ContentWeights([FIRST] * 2, target=0.5, fixed=3.0, device=CPU)
    control.update(BOTH, torch.tensor([2.0, 0.0]))
    assert control.of(BOTH).tolist() == pytest.approx([3.0, 3.0])
