"""Distances against closed forms, FLOPs against hand counts, memory against known tensors."""

import math

import pytest
import torch
from torch.nn import functional as F

from ecar_lab import machine
from ecar_lab.errors import EcarError
from ecar_lab.evaluation.metrics import (
    boundary_score,
    frechet_distance,
    kernel_distance,
    precision_recall,
)
from ecar_lab.machine import count_flops, matmul_rate, peak_memory


def normal(count: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def with_moments(features: torch.Tensor, mean: torch.Tensor, root: torch.Tensor) -> torch.Tensor:
    """The same points moved and stretched so that mean and covariance root² hold exactly."""
    features = features.double() - features.double().mean(dim=0)
    covariance = features.T @ features / (len(features) - 1)
    whitening = torch.linalg.inv(torch.linalg.cholesky(covariance)).T
    return features @ whitening @ root + mean


def test_frechet_distance_of_known_gaussians_is_the_closed_form():
    width = 5
    basis = torch.linalg.qr(normal(width, width, 0).double()).Q
    std_a, std_b = torch.arange(1.0, 6.0).double(), torch.tensor([2.0, 1, 5, 0.5, 3]).double()
    mean_a, mean_b = torch.zeros(width).double(), torch.arange(5.0).double()
    a = with_moments(normal(400, width, 1), mean_a, torch.diag(std_a) @ basis)
    b = with_moments(normal(300, width, 2), mean_b, torch.diag(std_b) @ basis)
    # Covariances of one basis commute: tr(A + B - 2 (AB)^½) is the squared difference of the stds.
    expected = (mean_b - mean_a).square().sum() + (std_a - std_b).square().sum()
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-9)


def test_frechet_distance_of_covariances_that_do_not_commute():
    def root(seed: int) -> torch.Tensor:
        return normal(4, 4, seed).double()

    roots = root(3), root(4)
    a, b = (with_moments(normal(200, 4, 5), torch.zeros(4), r) for r in roots)
    # tr (AB)^½ is the sum of the singular values of R_a R_bᵀ, with A = R_aᵀ R_a and B likewise.
    cross = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    expected = sum(r.square().sum() for r in roots) - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-6)


def test_frechet_distance_is_stable_with_fewer_samples_than_features():
    a, b = F.relu(normal(40, 256, 0)), F.relu(normal(60, 256, 1))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-4)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-6)
    centred = [x.double() - x.double().mean(dim=0) for x in (a, b)]
    scaled = [x / math.sqrt(len(x) - 1) for x in centred]
    cross = torch.linalg.svdvals(scaled[0] @ scaled[1].T).sum()
    between = (a.double().mean(dim=0) - b.double().mean(dim=0)).square().sum()
    expected = between + sum(x.square().sum() for x in scaled) - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-5)


def test_frechet_distance_names_features_of_different_width():
    with pytest.raises(EcarError, match="width 3 and 4"):
        frechet_distance(normal(10, 3, 0), normal(10, 4, 0))
    with pytest.raises(EcarError, match=r"shape \(1, 3\)"):
        frechet_distance(normal(1, 3, 0), normal(10, 3, 0))


def test_kernel_distance_is_near_zero_for_one_distribution_and_grows_with_a_shift():
    a, b = normal(1000, 16, 0), normal(1000, 16, 1)
    mean, std = kernel_distance(a, b, subset_size=500)
    far, _ = kernel_distance(a, b + 1, subset_size=500)
    assert abs(mean) < 0.05
    assert std > 0
    assert far > 10 * abs(mean)
    assert far > 1


def test_kernel_distance_repeats_and_leaves_the_global_generator_alone():
    a, b = normal(100, 8, 0), normal(80, 8, 1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = kernel_distance(a, b, subset_size=50, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert kernel_distance(a, b, subset_size=50, seed=1) == first
    assert kernel_distance(a, b, subset_size=50, seed=2) != first


def test_precision_and_recall_of_one_distribution_are_high():
    precision, recall = precision_recall(normal(500, 4, 0), normal(500, 4, 1))
    assert precision > 0.85
    assert recall > 0.85


def test_precision_and_recall_of_sets_far_apart_are_zero():
    assert precision_recall(normal(50, 4, 0), normal(50, 4, 1) + 100) == (0, 0)


def test_samples_of_one_mode_have_precision_but_no_recall_of_the_other():
    left, right = normal(200, 4, 0), normal(200, 4, 1) + 50
    precision, recall = precision_recall(torch.cat([left, right]), normal(200, 4, 2))
    assert precision > 0.8
    assert 0.3 < recall < 0.5 + 1e-9


def test_a_plausible_half_and_an_implausible_half_give_half_the_precision():
    real = normal(300, 4, 0)
    fake = torch.cat([real[:100] + 1e-3, normal(100, 4, 1) + 50])
    assert precision_recall(real, fake)[0] == pytest.approx(0.5)


def test_precision_and_recall_do_not_depend_on_the_block():
    real, fake = normal(130, 6, 0), 1.5 * normal(90, 6, 1)
    assert precision_recall(real, fake, block=7) == precision_recall(real, fake, block=1000)


def test_precision_and_recall_need_more_samples_than_neighbours():
    with pytest.raises(EcarError, match="3 samples for k = 3"):
        precision_recall(normal(3, 4, 0), normal(50, 4, 1))


@pytest.mark.parametrize("grad", [True, False])
def test_count_flops_counts_attention(grad):
    batch, heads, tokens, keys, width = 2, 3, 16, 24, 8
    q = torch.randn(batch, heads, tokens, width)
    k, v = torch.randn(2, batch, heads, keys, width)
    expected = 2 * 2 * batch * heads * tokens * keys * width  # q kᵀ, then weights times v
    with torch.set_grad_enabled(grad):
        assert count_flops(lambda: F.scaled_dot_product_attention(q, k, v)) == expected


def test_count_flops_of_layers_is_two_per_multiply_add():
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1),
        torch.nn.Flatten(),
        torch.nn.Linear(4 * 6 * 6, 10),
    )
    images = torch.randn(5, 3, 6, 6)
    expected = 2 * 5 * (6 * 6 * 4 * 3 * 9 + 4 * 6 * 6 * 10)
    assert count_flops(lambda: net(images)) == expected
    with torch.inference_mode():
        assert count_flops(lambda: net(images)) == expected


def test_count_flops_counts_the_backward_pass_too():
    layer, x = torch.nn.Linear(8, 16, bias=False), torch.randn(4, 8)
    forward = 2 * 4 * 8 * 16
    assert count_flops(lambda: layer(x).sum().backward()) == 2 * forward  # x needs no gradient


def test_matmul_rate_is_a_rate():
    assert 1e7 < matmul_rate(torch.float32, shape=(64, 64, 64)) < 1e15


@pytest.mark.parametrize("high_water_mark", [True, False])
def test_peak_memory_sees_a_tensor_that_is_gone_again(monkeypatch, high_water_mark):
    if not high_water_mark:  # the way of systems other than Linux
        real = machine.Path
        monkeypatch.setattr(
            machine, "Path", lambda name: real("/nowhere" + name if "clear" in name else name)
        )
    size = 64 * 2**20

    def call() -> str:
        held = torch.ones(size // 4)
        for _ in range(5):
            held += 1
        return "done"

    result, peak = peak_memory(call)
    assert result == "done"
    assert 0.9 * size < peak < 2 * size
    assert peak_memory(lambda: None)[1] < 0.2 * size


def noise_image(side: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(16, 4, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("block", [2, 4])
def test_a_picture_that_does_not_know_the_grid_has_boundary_score_one(block):
    white = noise_image(16)
    smooth = F.avg_pool2d(noise_image(20), kernel_size=5, stride=1)
    assert boundary_score(white, block) == pytest.approx(1, abs=0.05)
    assert boundary_score(smooth, block) == pytest.approx(1, abs=0.05)


def test_boundary_score_of_blocks_is_the_closed_form():
    # A block level of variance 1 and white noise of variance s² on it: a difference inside has
    # 2 s², one across a border 2 + 2 s².
    level = F.interpolate(noise_image(32, 1), scale_factor=2.0, mode="nearest")
    for s in (0.5, 1.0):
        score = boundary_score(level + s * noise_image(64, 2), 2)
        assert score == pytest.approx((1 + s**2) / s**2, rel=0.03)
    assert boundary_score(level, 2) == math.inf
    # Pairs of differences inside a 4-block: two without a border of 2-blocks, one with.
    assert boundary_score(level, 4) == pytest.approx(3, rel=0.05)


def test_boundary_score_sees_the_borders_of_both_axes_and_only_them():
    columns = torch.arange(8.0).div(2, rounding_mode="floor").expand(1, 1, 8, 8)
    for picture in (columns, columns.mT):
        assert boundary_score(picture + 1e-3 * noise_image(8), 2) > 100
    shifted = columns.roll(1, dims=3)
    assert boundary_score(shifted[..., :6], 2) < 0.01
    assert boundary_score(torch.zeros(1, 1, 4, 4)) == 1


@pytest.mark.parametrize(("side", "block"), [(4, 1), (2, 2), (4, 4)])
def test_boundary_score_refuses_a_grid_without_borders_or_insides(side, block):
    with pytest.raises(EcarError, match="fit twice"):
        boundary_score(noise_image(side), block)
    with pytest.raises(EcarError, match=r"\(B, C, H, W\)"):
        boundary_score(torch.zeros(4, 4))


def test_machine_names_cores_and_memory():
    assert "cores of" in machine.machine()
    assert machine.machine().endswith("GiB")
