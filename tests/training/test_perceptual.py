"""The perceptual term: what it measures, that its net stays as it is, and that it never judges."""

from pathlib import Path

import pytest
import torch

from ecar_lab.errors import EcarError
from ecar_lab.evaluation.feature_net import FeatureNet
from ecar_lab.evaluation.judge import pick_judge, refuse_own_teacher
from ecar_lab.stored import fingerprint
from ecar_lab.tokenizers.makers import load_tokenizer
from ecar_lab.training.config import TokenizerTrainConfig
from ecar_lab.training.log import read_metrics
from ecar_lab.training.perceptual import PerceptualLoss
from ecar_lab.training.tokenizer import train_tokenizer


@pytest.fixture
def net() -> FeatureNet:
    torch.manual_seed(0)
    return FeatureNet(num_classes=3, width=8, image_size=16)


def images(seed: int) -> torch.Tensor:
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_it_is_the_mean_of_one_minus_the_cosines_of_all_layers(net):
    loss = PerceptualLoss(net)
    made, real = images(0), images(1)
    assert loss(real, real) == pytest.approx(0, abs=1e-6)
    by_hand, x, y = [], made, real
    for layer in net.body:
        x, y = layer(x), layer(y)
        dot, lengths = (x * y).sum(1), x.norm(dim=1) * y.norm(dim=1)
        by_hand.append(1 - (dot / lengths.clamp(min=1e-12)).mean())
    torch.testing.assert_close(loss(made, real), torch.stack(by_hand).mean(), rtol=1e-3, atol=1e-4)


def test_only_the_made_images_get_a_gradient_and_the_net_stays(net):
    loss = PerceptualLoss(net).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    made, real = images(0).requires_grad_(), images(1).requires_grad_()
    loss(made, real).backward()
    assert made.grad is not None
    assert made.grad.any()
    assert real.grad is None
    assert all(p.grad is None for p in net.parameters())
    for name, value in net.state_dict().items():  # the running statistics, too
        assert torch.equal(value, before[name]), name


def test_a_tokenizer_trained_with_it_names_its_net_which_then_judges_no_more(net, tmp_path: Path):
    teacher = tmp_path / "teacher"
    net.save_pretrained(teacher)

    def config(**more) -> TokenizerTrainConfig:
        return TokenizerTrainConfig.from_preset(
            "digits", steps=2, batch_size=8, limit=16, log_every=1, warmup_steps=1, test_limit=8,
            device="cpu", dtype="float32", **more,
        )  # fmt: skip

    run = train_tokenizer(
        config(perceptual=str(teacher), perceptual_weight=0.5, output=str(tmp_path / "run"))
    )
    assert read_metrics(run)[0]["loss_perceptual"] > 0
    stored = load_tokenizer(run / "final").config
    assert stored["perceptual_weight"] == 0.5
    assert stored["perceptual_net"] == fingerprint(teacher)
    judge = pick_judge(str(teacher), "digits", 8)
    with pytest.raises(EcarError, match="'teacher' was in the loss of this tokenizer"):
        refuse_own_teacher(judge, stored["perceptual_net"])
    refuse_own_teacher(judge, "")
    with pytest.raises(EcarError, match="no feature net for 'nobody'"):
        train_tokenizer(config(perceptual="nobody", output=str(tmp_path / "other")))
