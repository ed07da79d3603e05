"""docs/architecture: the picture is that of the code, and the page names what there is."""

import importlib
import re
from pathlib import Path

import pytest
import torch

from docs import draw_architecture as drawing
from docs import floor_plan
from ecar_lab.model import ECAR
from ecar_lab.trace import trace

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
NAMES = sorted(set(re.findall(r"\becar_lab(?:\.\w+)+", PAGE)))
FLOORS = [["top.a", "top.b"], ["middle"], ["ground"]]


def test_the_picture_is_that_of_the_code():
    committed = drawing.PICTURE.read_text(encoding="utf-8")
    assert drawing.picture() == committed, "draw it anew: make architecture"


def test_no_arrow_of_the_code_runs_up_and_every_module_has_a_floor():
    graph = drawing.read_imports()
    floors = drawing.with_guests(drawing.read_floors(ROOT / "pyproject.toml"), graph)
    level = floor_plan.levels(floors)
    assert ["apps"] in floors, "the app has a floor of its own"
    assert drawing.homeless(graph.modules, floors) == []
    assert len(graph.modules) > 100, "the graph holds the whole kit"
    arrows = drawing.read_arrows(graph, floors)
    assert ("ecar_lab.pipeline", "ecar_lab.trace") in arrows
    assert [arrow for arrow in arrows if level[arrow[1]] < level[arrow[0]]] == []


def test_a_module_on_no_floor_is_named():
    modules = ["top.a", "top.a.inner", "middle", "middleman", "ground", drawing.DOOR]
    assert drawing.homeless(modules, FLOORS) == ["middleman"]


def test_only_arrows_that_no_longer_way_replaces_are_drawn():
    arrows = {("top.a", "middle"), ("middle", "ground"), ("top.a", "ground"), ("top.b", "ground")}
    assert floor_plan.essential(arrows) == arrows - {("top.a", "ground")}


def test_an_arrow_that_runs_up_is_drawn_and_said():
    boxes = {
        name: floor_plan.Box(name, "what it is for", 1, 10) for floor in FLOORS for name in floor
    }
    kept = floor_plan.draw(FLOORS, boxes, {("top.a", "ground")})
    assert 'class="arrow up"' not in kept
    broken = floor_plan.draw(FLOORS, boxes, {("top.a", "ground"), ("ground", "middle")})
    assert broken.count('class="arrow up"') == 1
    assert "in red" in broken
    assert "in red" not in kept


def test_an_arrow_passes_a_floor_beside_its_boxes():
    floors = [["top"], ["left", "right"], ["middle"], ["ground"]]
    boxes = {name: floor_plan.Box(name, "what for", 1, 10) for floor in floors for name in floor}
    places, arrows = floor_plan.place(floors, boxes), {("top", "ground"), ("left", "ground")}
    spots = floor_plan.attach(arrows, places, 0), floor_plan.attach(arrows, places, 1)
    ways = floor_plan.bypass(arrows, floors, places, *spots)
    assert [y for _, y in ways["top", "ground"]] == [
        edge for name in ("left", "middle") for edge in (places[name].top, places[name].bottom)
    ]
    for x, y in (point for way in ways.values() for point in way):
        for box in places.values():
            inside = box.left < x < box.left + box.width and box.top <= y <= box.bottom
            assert not inside, (x, y, box)
    middle = {way[-1][0] for way in ways.values()}
    assert len(middle) == 2, "two arrows in one lane keep apart"


def test_floors_are_read_with_siblings_and_containers(tmp_path):
    file = tmp_path / "pyproject.toml"
    file.write_text(
        '[[tool.importlinter.contracts]]\ntype = "forbidden"\n'
        '[[tool.importlinter.contracts]]\ntype = "layers"\ncontainers = ["kit"]\n'
        'layers = ["a |\\n b", "(c) : d", "e"]\n'
    )
    assert drawing.read_floors(file) == [["kit.a", "kit.b"], ["kit.c", "kit.d"], ["kit.e"]]
    file.write_text("[tool.other]\n")
    with pytest.raises(ValueError, match="no import-linter contract"):
        drawing.read_floors(file)


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("What it does.\n\nMore of it.", "What it does"),
        ("Two lines\nof words: e.g. these. And more.", "Two lines of words: e.g. these"),
        ("Of :class:`Flow` and ``b``.", "Of Flow and b"),
        ("", ""),
    ],
)
def test_a_purpose_is_the_first_sentence(docstring, sentence):
    assert drawing.first_sentence(docstring) == sentence


@pytest.mark.parametrize("name", NAMES)
def test_whatever_the_page_names_exists(name):
    found, rest = importlib.import_module(name.split(".")[0]), name.split(".")[1:]
    module = found.__name__
    while rest:
        try:  # a module before an attribute: ecar_lab.trace is both, and the page means the file
            found = importlib.import_module(f"{module}.{rest[0]}")
        except ModuleNotFoundError:
            break
        module = found.__name__
        rest = rest[1:]
    for attribute in rest:
        found = getattr(found, attribute)


def test_every_box_of_the_picture_is_on_the_page():
    for name in (name for floor in drawing.read_floors(ROOT / "pyproject.toml") for name in floor):
        assert f"`{name}`" in PAGE, name


def test_the_shapes_of_the_walk_are_those_of_the_cifar10_preset():
    """Without guidance, so that rows are images; the page says where they double."""
    model, seen = ECAR.from_preset("cifar10").eval(), {}

    def record(owner, name, key, pick=lambda result: result):
        method = getattr(owner, name)

        def recorded(*arguments, **options):
            result = method(*arguments, **options)
            seen.setdefault(key, []).append(tuple(pick(result).shape))
            return result

        setattr(owner, name, recorded)

    kind = "ecar_lab.transformer.MultistageTransformer"
    record(model.transformer, "embed", f"{kind}.embed")
    record(model.transformer, "step", f"{kind}.step", lambda result: result[0])
    record(model.head, "read", "ecar_lab.flow.FlowHead.read")
    record(model.head, "forward", "ecar_lab.flow.FlowHead.forward")
    with torch.random.fork_rng():
        events = list(trace(model, ["cat"], 1, 1.0))
    starts = [tuple(event.latent.shape) for event in events if event.step == 0]
    estimates = [tuple(event.clean_estimate.shape) for event in events if event.step == 1]
    seen |= {"ecar_lab.flow.transition": starts, "ecar_lab.flow.clean_estimate": estimates}
    quoted = {
        row[0]: re.findall(r"`(\([\d, ]+\))`", row[1])
        for row in re.findall(r"^\|[^|]+\| `([\w.]+)` \|(.*)\|$", PAGE, re.MULTILINE)
    }
    for key, shapes in seen.items():
        assert quoted[key] == list(map(str, shapes)), key
    tokens = re.search(r"KVCache\.num_tokens` \| (\d+) \| (\d+) \| (\d+) \|", PAGE)
    layers, width = model.config.transformer_layers, model.config.width
    per_token = 2 * layers * width * 4  # keys and values, float32
    held = [event.cache_bytes // per_token for event in events if event.step == 0]
    assert tokens is not None
    assert list(map(int, tokens.groups())) == held
    assert model.class_ids("cat").tolist() == [3]
    assert model.null_class == 10
