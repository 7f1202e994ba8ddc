"""The losses against formulas written down once more, one image at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.training.losses import (
    LAYER_WEIGHTS,
    STYLE_TERMS,
    Statistics,
    content_distance,
    feature_distance,
    gram_terms,
    lattice_loss,
    range_loss,
    smoothness_loss,
    statistics,
    statistics_terms,
    total_variation,
    variation_hinge,
)

RELU4_1 = 3


def layers(seed: int, images: int = 3) -> list[Tensor]:
    """Features like those of a VGG: five layers, never negative."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(4, 16), (5, 12), (6, 8), (7, 6), (8, 4)]
    return [
        torch.randn(images, width, side, side + 1, generator=generator).relu() * (layer + 1)
        for layer, (width, side) in enumerate(shapes)
    ]


def plain_statistics(features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean, standard deviation, correlation and Gram matrix of (C, H, W), float64."""
    x = features.double().flatten(1)
    return x.mean(1), x.std(1, correction=0), torch.corrcoef(x), x @ x.T / x.shape[1]


def relative(ours: Tensor, theirs: Tensor) -> Tensor:
    return ((ours - theirs) ** 2).sum() / (theirs**2).sum()


def expected_loss(name: str, ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
    """The style loss of one image, (C, H, W) each layer."""
    total = torch.zeros((), dtype=torch.float64)
    for weight, a, b in zip(LAYER_WEIGHTS, ours, theirs, strict=True):
        *moments_a, gram_a = plain_statistics(a)
        *moments_b, gram_b = plain_statistics(b)
        if name == "gram":
            total += weight * relative(gram_a, gram_b)
        else:
            total += weight * sum(relative(x, y) for x, y in zip(moments_a, moments_b, strict=True))
    return total


def style_loss(name: str, ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
    return STYLE_TERMS[name](all_statistics(ours), all_statistics(theirs)).sum(1)


def all_statistics(features: list[Tensor]) -> list[Statistics]:
    return [statistics(layer) for layer in features]


def test_statistics_are_those_of_each_image() -> None:
    features = layers(0)[2]
    ours = statistics(features)
    for index, image in enumerate(features):
        mean, std, correlation, gram = plain_statistics(image)
        torch.testing.assert_close(ours.mean[index].double(), mean, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours.std[index].double(), std, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            ours.correlation[index].double(), correlation, rtol=1e-3, atol=1e-3
        )
        torch.testing.assert_close(ours.gram[index].double(), gram, rtol=1e-4, atol=1e-4)


def test_statistics_of_bfloat16_are_float32() -> None:
    features = (layers(0)[2] + 10).bfloat16()
    ours = statistics(features)
    assert ours.mean.dtype == ours.gram.dtype == torch.float32
    torch.testing.assert_close(ours.mean, features.double().mean((2, 3)).float())


def test_statistics_do_not_depend_on_the_size() -> None:
    features = layers(0)[1]
    tiled = features.repeat(1, 1, 2, 3)
    for name in ("mean", "std", "correlation", "gram"):
        torch.testing.assert_close(
            getattr(statistics(tiled), name), getattr(statistics(features), name),
            rtol=1e-4, atol=1e-4,
        )  # fmt: skip


def test_a_channel_that_is_always_off_is_no_trouble() -> None:
    features = layers(0)[0]
    features[:, 1] = 0
    features.requires_grad_()
    ours = statistics(features)
    assert all(torch.isfinite(getattr(ours, name)).all() for name in ("std", "correlation"))
    ours.correlation.sum().backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()


def test_stacked_statistics_are_blended_by_style() -> None:
    each = [statistics(layers(seed, images=1)[0]) for seed in range(3)]
    mix = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.25, 0.75, 0.0]])
    blended = Statistics.stack(each).blend(mix)
    for name in ("mean", "std", "correlation", "gram"):
        one, other, last = (getattr(statistics, name)[0] for statistics in each)
        rows = getattr(blended, name)
        assert torch.equal(rows[0], last)
        assert torch.equal(rows[1], one)
        torch.testing.assert_close(rows[2], one / 4 + other * 3 / 4)


@pytest.mark.parametrize("name", ["statistics", "gram"])
def test_style_losses_are_those_of_the_papers(name: str) -> None:
    ours, theirs = layers(0), layers(1)
    losses = style_loss(name, ours, theirs)
    assert losses.shape == (3,)
    for index, loss in enumerate(losses):
        expected = expected_loss(name, [a[index] for a in ours], [b[index] for b in theirs])
        assert loss.item() == pytest.approx(expected.item(), rel=1e-2)
        assert loss > 0.01


@pytest.mark.parametrize("name", ["statistics", "gram"])
def test_a_painting_has_no_distance_from_its_own_style(name: str) -> None:
    assert torch.equal(style_loss(name, layers(0), layers(0)), torch.zeros(3))


@pytest.mark.parametrize("name", ["statistics", "gram"])
def test_style_does_not_ask_where_things_are(name: str) -> None:
    features = layers(0)
    order = torch.Generator().manual_seed(1)
    shuffled = []
    for layer in features:
        places = torch.randperm(layer[0, 0].numel(), generator=order)
        shuffled.append(layer.flatten(2)[:, :, places].reshape(layer.shape))
    assert style_loss(name, shuffled, features).max() < 1e-8


def test_layers_count_by_their_weights() -> None:
    ours, theirs = layers(0), layers(1)
    for index, weight in enumerate(LAYER_WEIGHTS):
        mixed = [b if layer != index else ours[layer] for layer, b in enumerate(theirs)]
        loss = style_loss("gram", mixed, theirs)
        alone = relative(plain_statistics(ours[index][0])[3], plain_statistics(theirs[index][0])[3])
        assert loss[0].item() == pytest.approx(weight * alone.item(), rel=1e-3)


def test_the_statistics_loss_sees_scale_and_colour_apart_from_correlation() -> None:
    features = layers(0)
    brighter = [layer * 2 for layer in features]
    loss = style_loss("statistics", brighter, features)
    # Means and deviations are each as far off as they are large, correlations not at all.
    torch.testing.assert_close(loss, torch.full((3,), 2 * sum(LAYER_WEIGHTS)), rtol=1e-3, atol=0)


def test_content_is_the_shapes_of_relu4_1() -> None:
    ours, photo = layers(0), layers(1)
    loss = content_distance(ours, photo)
    for index in range(3):
        a, b = (f[RELU4_1][index].double() for f in (ours, photo))
        a, b = (
            (x - x.mean((1, 2), keepdim=True))
            / (x.var((1, 2), correction=0, keepdim=True) + 1e-5).sqrt()
            for x in (a, b)
        )
        assert loss[index].item() == pytest.approx(((a - b) ** 2).mean().item(), rel=1e-3)


def test_content_is_indifferent_to_contrast_and_to_the_other_layers() -> None:
    photo = layers(1)
    ours = layers(0)
    ours[RELU4_1] = photo[RELU4_1] * 3 + 2
    assert content_distance(ours, photo).max() < 1e-4
    assert torch.equal(content_distance(photo, photo), torch.zeros(3))


def test_plain_content_is_the_distance_of_relu4_1() -> None:
    ours, photo = layers(0), layers(1)
    for index, distance in enumerate(feature_distance(ours, photo)):
        a, b = (f[RELU4_1][index].double() for f in (ours, photo))
        assert distance.item() == pytest.approx(relative(a, b).item(), rel=1e-4)


def test_each_scale_counts_as_the_first() -> None:
    ours, theirs = layers(0), layers(1)
    for name in STYLE_TERMS:
        once, twice = (style_loss(name, ours * n, theirs * n) for n in (1, 2))
        torch.testing.assert_close(twice, 2 * once)


def test_variation_is_the_mean_step_between_neighbours() -> None:
    images = torch.zeros(2, 3, 4, 6)
    images[0, :, :, ::2] = 1.0
    images[1, :, 2:] = 0.5
    assert total_variation(images).tolist() == pytest.approx([1.0, 0.5 / 3])


def test_variation_is_forbidden_only_above_the_paintings() -> None:
    images = torch.zeros(3, 3, 4, 6)
    images[:, :, :, ::2] = 1.0
    hinge = variation_hinge(images, torch.tensor([2.0, 1.0, 0.4]))
    assert hinge.tolist() == pytest.approx([0.0, 0.0, 1.5])


def blobs(seed: int = 0) -> Tensor:
    """Pictures that change in the large, in steps of 16 pixels."""
    coarse = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return coarse.repeat_interleave(16, 2).repeat_interleave(16, 3)


def test_what_the_photo_does_not_have_in_the_large_is_not_smooth() -> None:
    flat, photo = torch.full((2, 3, 64, 64), 0.5), blobs(0)
    on_flat, on_own, none = (
        smoothness_loss(a, b) for a, b in ((photo, flat), (photo, photo), (flat, photo))
    )
    assert none.max() == 0
    assert (on_own < 0.3 * on_flat).all()
    a = F.avg_pool2d(photo, 8)
    expected = sum(a.diff(dim=axis).abs().mean((1, 2, 3)) for axis in (2, 3))
    torch.testing.assert_close(on_flat, expected)


def test_strokes_are_smooth() -> None:
    flat, strokes = torch.full((1, 3, 64, 64), 0.5), torch.zeros(1, 3, 64, 64)
    strokes[..., ::4] = strokes[..., 1::4] = 1.0
    assert smoothness_loss(strokes, flat).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("period", [2, 4])
def test_a_screen_over_the_picture_is_a_lattice(period: int) -> None:
    screen = torch.zeros(1, 3, 64, 64)
    screen[..., ::period] = 0.4
    share = 1 / period
    expected = 2 * 0.4 * share * (1 - share)  # the mean deviation of such a wave
    assert lattice_loss(screen).item() == pytest.approx(expected, rel=1e-4)
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.4
    assert lattice_loss(noise).item() < 0.05 * expected


def test_what_changes_from_step_to_step_is_no_lattice() -> None:
    assert lattice_loss(blobs()).max() < 1e-6


def test_leaving_the_range_costs_the_distance() -> None:
    images = torch.full((3, 3, 2, 2), 0.5)
    images[1, :, 0] = 1.5
    images[2, 0] = -0.3
    assert range_loss(images).tolist() == pytest.approx([0.0, 0.25, 0.1])


@pytest.mark.parametrize("loss", [statistics_terms, gram_terms])
def test_following_the_gradient_brings_the_style_nearer(loss: Callable[..., Tensor]) -> None:
    features, painting = layers(0), all_statistics(layers(1))
    for layer in features:
        layer.requires_grad_()
    before = loss(all_statistics(features), painting).sum()
    before.backward()
    with torch.no_grad():
        nearer = [layer - 1e-2 * layer.grad / layer.grad.norm() for layer in features]
        assert loss(all_statistics(nearer), painting).sum() < before
