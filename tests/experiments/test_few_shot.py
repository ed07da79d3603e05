"""A new class from its embedding alone, and the experiment on it."""

import itertools
import json

import pytest
import torch

from ecar_lab import EcarError
from ecar_lab.baselines import DiT
from ecar_lab.data.feeds import IndexedFeed, LatentStore
from ecar_lab.evaluation.feature_net import FeatureOutput, extract
from ecar_lab.experiments import few_shot
from ecar_lab.experiments.lab.lab import Lab
from ecar_lab.experiments.lab.one_class import decode, encode, own_judge, real_class
from ecar_lab.experiments.lab.sizes import SIZES
from ecar_lab.training import model as train
from ecar_lab.training import new_class
from ecar_lab.training.config import ModelTrainConfig
from ecar_lab.training.new_class import Learning, best_mix, learn_class, mix_classes
from tests.conftest import tiny_model

QUICK = Learning(steps=3, batch_size=8, lr=0.05)


def tiny_dit():
    torch.manual_seed(0)
    dit = DiT(
        latent_size=8, latent_channels=3, num_classes=3, num_layers=2, num_heads=2, head_dim=8
    )
    with torch.no_grad():
        for parameter in dit.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return dit.eval()


@pytest.fixture(params=[tiny_model, tiny_dit], ids=["ecar", "dit"])
def model(request):
    return request.param()


@pytest.fixture(scope="module")
def lab(runs):
    return Lab(SIZES["smoke"], runs)


@pytest.fixture(scope="module")
def result(lab):
    return json.loads(json.dumps(few_shot.run(lab)))


def test_every_block_that_reads_the_class_is_listed():
    assert len(tiny_model().class_embeddings) == 2  # transformer and head
    assert len(tiny_dit().class_embeddings) == 2  # one per block
    for table in (*tiny_model().class_embeddings, *tiny_dit().class_embeddings):
        assert table.num_embeddings == 3 + 1


def test_the_class_reaches_the_loss_through_the_listed_rows_alone(model):
    for table in model.class_embeddings:
        table.weight.data[2] = table.weight.data[0]
    draw = model.draw(4, torch.Generator().manual_seed(0))
    latent = torch.randn(4, 3, 8, 8)
    losses = [model.loss(latent, torch.full((4,), label), draw).loss.item() for label in range(3)]
    assert losses[2] == losses[0] != losses[1]


def test_a_mix_is_the_mean_of_the_rows(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = [table.weight[[1, 2]].mean(dim=0) for table in model.class_embeddings]
    mix_classes(model, 0, [1, 2])
    for table, row in zip(model.class_embeddings, expected, strict=True):
        torch.testing.assert_close(table.weight[0], row)
        table.weight.data[0] = 0
    assert sum(not torch.equal(before[n], t) for n, t in model.state_dict().items()) == 2


def test_a_class_is_not_mixed_from_itself(model):
    with pytest.raises(EcarError, match=r"class 0 cannot be mixed from \[0, 1\]"):
        mix_classes(model, 0, [0, 1])


def test_learning_moves_the_rows_of_the_class_and_nothing_else(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rows = [table.weight[1].detach().clone() for table in model.class_embeddings]
    losses = learn_class(model, 1, torch.randn(2, 3, 8, 8), QUICK)
    assert len(losses) == 3
    for table, row in zip(model.class_embeddings, rows, strict=True):
        assert (table.weight[1] - row).abs().min() > 0
        table.weight.data[1] = row
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_learning_brings_the_loss_down(model):
    latent = torch.ones(1, 3, 8, 8)
    losses = learn_class(model, 1, latent, Learning(steps=40, batch_size=16, lr=0.05))
    assert sum(losses[-5:]) < 0.97 * sum(losses[:5])


def test_learning_from_nothing_is_refused(model):
    with pytest.raises(EcarError, match="class 1 cannot be learned from 0 images"):
        learn_class(model, 1, torch.empty(0, 3, 8, 8), QUICK)


def test_the_best_mix_is_the_one_of_least_loss_and_stays_set(model, monkeypatch):
    tables = model.class_embeddings
    with torch.no_grad():
        for table in tables:
            table.weight[:] = torch.arange(4.0)[:, None]
    monkeypatch.setattr(
        new_class, "_loss", lambda model, label, *_: (tables[0].weight[label] - 1.4).square().sum()
    )
    mixes = [mix for size in (1, 2) for mix in itertools.combinations((1, 2), size)]
    assert best_mix(model, 0, torch.ones(1, 3, 8, 8), mixes, QUICK) == (1, 2)
    assert all((table.weight[0] == 1.5).all() for table in tables)


def test_a_class_that_is_left_out_is_never_trained_on(monkeypatch, tmp_path):
    stores = []

    def feed(store, *rest):
        stores.append(store)
        return IndexedFeed(store, *rest)

    monkeypatch.setattr(train, "IndexedFeed", feed)
    Lab(SIZES["smoke"], tmp_path).train(leave_out=["3", 5], steps=1)
    assert stores[0].labels.unique().tolist() == [0, 1, 2, 4, 6, 7, 8, 9]
    assert len(stores[0].mean) == len(stores[0].labels)


def test_a_store_without_classes_keeps_images_and_labels_together():
    labels = torch.tensor([0, 1, 2, 1, 0])
    mean = labels[:, None, None, None, None].half().expand(5, 1, 1, 1, 1)
    store = LatentStore(mean, mean + 10, labels).without([1])
    assert store.labels.tolist() == [0, 2, 0]
    assert store.mean.flatten().tolist() == [0, 2, 0]
    assert store.std.flatten().tolist() == [10, 12, 10]


def test_leaving_out_wants_cached_latents():
    config = ModelTrainConfig(leave_out=["cat"], cache_latents=False)
    with pytest.raises(EcarError, match=r"leave_out \['cat'\] picks among cached latents"):
        config.check()


def test_images_that_are_shown_are_not_compared_with(lab):
    judge = own_judge("digits", 8)
    new = real_class(lab, "digits", 8, judge, 4, shown=20, compared=50, seed=0)
    assert len(new.shown) == 20
    assert len(new.rest.features) == 50
    assert len(new.wanted.features) == (181 - 20) // 2  # scikit-learn has 181 fours
    seen = extract(judge.net, new.shown).features
    others = torch.cat((new.wanted.features, new.rest.features))
    assert torch.cdist(seen, others).min() > 1e-3
    assert torch.cdist(new.wanted.features, new.rest.features).min() > 1e-3
    again = real_class(lab, "digits", 8, judge, 4, shown=20, compared=50, seed=0)
    assert torch.equal(new.shown, again.shown)


def test_quality_tells_the_class_from_another(lab):
    judge = own_judge("digits", 8)
    four, nine = (
        real_class(lab, "digits", 8, judge, label, shown=1, compared=40, seed=0) for label in (4, 9)
    )
    own = four.quality(judge, four.rest, 0)
    twice = FeatureOutput(*(torch.cat((part, part)) for part in nine.rest))
    other = four.quality(judge, twice, 0)
    assert own["named_right"] > 0.9
    assert other["named_right"] < 0.1
    assert own["frechet"] < 0.5 * other["frechet"]
    # Distances are means over parts of equal size, so more images of the same kind change nothing.
    assert other == pytest.approx(four.quality(judge, nine.rest, 0))


def test_a_strip_of_images_survives_the_json():
    images = torch.randint(256, (10, 3, 8, 8), dtype=torch.uint8)
    strip = torch.from_numpy(decode(encode(images)).copy())
    assert torch.equal(strip, torch.cat(tuple(images[:8]), dim=2).movedim(0, -1))


def test_the_experiment_measures_every_way_to_a_new_class(result):
    ways = {(row["arm"], row["how"], row["shots"]) for row in result["rows"]}
    few = [(how, k) for how in ("best mix", "learned") for k in (1, 5)]
    kinds = [("mean of the others", 0), *few, ("trained with it", 0)]
    assert ways == {(arm, *kind) for arm in ("E-CAR", "DiT") for kind in kinds}
    assert result["left_out"] == ["0"]
    assert result["sampling_steps"] == {"E-CAR": [8, 8], "DiT": [16]}
    assert result["real"]["named_right"]["mean"] > 0.9
    mixes = [row["mix"][0] for row in result["rows"] if row["how"] == "best mix"]
    assert all(len(mix) == 1 and mix[0] in "123456789" for mix in mixes)


def test_the_figure_and_the_table_need_the_json_alone(result, tmp_path):
    few_shot.draw(result).savefig(tmp_path / "figure.png")
    lines = few_shot.table(result).splitlines()
    assert len(lines) == 2 + 12 + 1
    assert lines[-1].startswith("| real images")


def test_a_second_run_computes_nothing_again(lab, result, monkeypatch):
    monkeypatch.setattr(few_shot.Trial, "measure", None)
    monkeypatch.setattr(train, "train_model", None)
    assert json.loads(json.dumps(few_shot.run(lab)))["rows"] == result["rows"]


def test_classes_are_spaced_evenly():
    assert few_shot.spaced(10, 3) == [0, 3, 6]
    assert few_shot.spaced(2, 3) == [0, 1]
