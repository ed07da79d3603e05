"""The feature net: shapes, augmentation, training on digits in seconds, saving and loading."""

import json
import shutil

import pytest
import torch

from ecar_lab.data import open_dataset
from ecar_lab.errors import EcarError
from ecar_lab.evaluation.feature_net import (
    FeatureNet,
    accuracy,
    extract,
    load_features,
    to_unit_range,
)
from ecar_lab.training.features import augment, train_features


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A narrow net after a few seconds on digits."""
    folder = tmp_path_factory.mktemp("nets") / "features-digits"
    return train_features("digits", epochs=8, width=8, dtype="float32", output=folder)


@pytest.mark.parametrize(("size", "stride"), [(8, 1), (11, 1), (32, 1), (64, 2)])
def test_images_of_many_sizes_give_features_and_logits(size, stride):
    net = FeatureNet(num_classes=7, width=8, stem_stride=stride)
    output = net(torch.randn(2, 3, size, size))
    assert output.features.shape == (2, 64)
    assert output.logits.shape == (2, 7)
    assert output.features.dtype == torch.float32


def test_the_default_net_has_one_to_two_million_weights():
    assert 1e6 < sum(p.numel() for p in FeatureNet().parameters()) < 2e6


def test_without_shift_and_flip_an_image_stays_as_it_is():
    images = torch.randint(0, 256, (4, 3, 9, 8), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(augment(images, 0, False, generator), images)


def test_augmented_images_are_shifts_and_flips_of_their_own_image():
    images = torch.arange(3 * 64, dtype=torch.float32).view(3, 1, 8, 8)
    out = augment(images, 2, True, torch.Generator().manual_seed(0))
    assert out.shape == images.shape
    for image, changed in zip(images, out, strict=True):
        inner = changed[0, 2:6, 2:6]  # whatever the shift, these come from inside the image
        candidates = [
            source[0, 2 + dy : 6 + dy, 2 + dx : 6 + dx]
            for source in (image, image.flip(-1))
            for dy in range(-2, 3)
            for dx in range(-2, 3)
        ]
        assert any(torch.equal(inner, candidate) for candidate in candidates)


def test_about_half_of_the_images_are_flipped_and_shifts_differ():
    ramp = torch.arange(8.0).expand(400, 1, 8, 8)
    generator = torch.Generator().manual_seed(0)
    flipped = (augment(ramp, 0, True, generator)[:, 0, 0, 0] == 7).double().mean()
    assert 0.4 < flipped < 0.6
    corners = augment(ramp, 2, False, generator)[:, 0, 0, 2]
    assert set(corners.tolist()) == {0, 1, 2, 3, 4}


def test_bytes_map_to_minus_one_to_one_and_floats_pass():
    images = torch.tensor([0, 255], dtype=torch.uint8)
    assert to_unit_range(images).tolist() == [-1, 1]
    assert to_unit_range(torch.tensor([0.25])).tolist() == [0.25]


def test_extract_does_not_depend_on_the_batch():
    net = FeatureNet(width=8)
    images = torch.randint(0, 256, (10, 3, 16, 16), dtype=torch.uint8)
    whole, parts = extract(net, images), extract(net, images, batch_size=3)
    torch.testing.assert_close(whole.features, parts.features)
    torch.testing.assert_close(whole.logits, parts.logits)


def test_accuracy_is_the_share_of_right_answers():
    logits = torch.eye(4)
    assert accuracy(logits, torch.tensor([0, 1, 2, 0])) == 0.75


def test_a_net_learns_digits_in_seconds_and_its_card_says_how(trained):
    record = json.loads((trained / "training.json").read_text("utf-8"))
    assert record["test_accuracy"] > 0.9
    card = (trained / "README.md").read_text("utf-8")
    assert f"{record['test_accuracy']:.2%}" in card
    assert "ecar train features --dataset digits --epochs 8 --width 8" in card
    assert record["machine"] in card


def test_the_saved_net_is_the_net_that_was_measured(trained):
    images, labels = open_dataset("digits", split="test").arrays()
    net = load_features(trained)
    record = json.loads((trained / "training.json").read_text("utf-8"))
    assert accuracy(extract(net, images).logits, labels) == record["test_accuracy"]
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert net.config.class_names == [str(digit) for digit in range(10)]


def test_the_same_seed_gives_the_same_net(tmp_path):
    folders = [
        train_features("digits", epochs=1, width=8, seed=s, dtype="float32", output=tmp_path / name)
        for name, s in (("a", 3), ("b", 3), ("c", 4))
    ]
    a, b, c = (load_features(folder).head.weight for folder in folders)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_minutes_end_the_training_before_its_epochs(tmp_path):
    folder = train_features(
        "digits", epochs=1000, minutes=0.02, width=8, dtype="float32", output=tmp_path / "net"
    )
    assert json.loads((folder / "training.json").read_text("utf-8"))["epochs"] < 1000


def test_a_shipped_net_is_found_by_the_name_of_its_data_set(trained, monkeypatch):
    monkeypatch.setenv("ECAR_CHECKPOINTS", str(trained.parent))
    for name in ("digits", "features-digits", str(trained)):
        assert load_features(name).config.width == 8


def test_a_missing_net_is_named_with_the_command_that_trains_it(tmp_path, monkeypatch):
    monkeypatch.setenv("ECAR_CHECKPOINTS", str(tmp_path))
    with pytest.raises(EcarError, match="ecar train features --dataset shapes"):
        load_features("shapes")


def test_a_truncated_net_is_an_error_with_a_remedy(trained, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(trained, broken)
    weights = next(broken.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(EcarError, match="cannot be loaded, they are missing, cut short"):
        load_features(broken)


def test_a_folder_of_something_else_is_no_feature_net(trained, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    (other / "config.json").write_text('{"_class_name": "ECAR"}', encoding="utf-8")
    with pytest.raises(EcarError, match="holds no feature net"):
        load_features(other)


@pytest.mark.parametrize("limits", [{"epochs": 0}, {"minutes": 0}, {"minutes": float("nan")}])
def test_a_training_of_no_length_is_refused(limits):
    with pytest.raises(EcarError, match=r"(epochs|minutes) is (0|nan): use"):
        train_features("digits", **limits)


@pytest.mark.parametrize("sizes", [{"width": 0}, {"batch_size": 1}])
def test_a_net_of_no_width_and_a_batch_of_one_are_refused(sizes):
    with pytest.raises(EcarError, match=r"is [01]: use"):
        train_features("digits", **sizes)


def test_a_place_that_cannot_be_written_shows_before_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr("ecar_lab.training.features._fit", None)  # it must not come that far
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    with pytest.raises(EcarError, match="cannot write"):
        train_features("digits", output=tmp_path / "file" / "net")
