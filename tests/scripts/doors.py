"""The doors that ``fuzz_doors.py`` goes through with random input, and what must hold behind each.

A door draws its input, goes through, and returns a few words; a result that is wrong without a word
is :class:`Silent`.
"""

import contextlib
import io
import json
import math
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from ecar_lab.cli import main as cli  # noqa: E402
from ecar_lab.data import open_dataset  # noqa: E402
from ecar_lab.errors import EcarError  # noqa: E402
from ecar_lab.model import ECAR  # noqa: E402
from ecar_lab.pipeline import ECARPipeline  # noqa: E402
from ecar_lab.tokenizers.makers import IdentityTokenizer  # noqa: E402
from ecar_lab.trace import trace  # noqa: E402
from ecar_lab.training.config import (  # noqa: E402
    ModelTrainConfig,
    TokenizerTrainConfig,
    TurboTrainConfig,
)

TINY = dict(width=16, num_heads=2, transformer_layers=1, head_layers=1)
CLASSES = ["cat", "dog", "frog"]
NUMBERS = [0, 1, 2, 3, -1, 0.5, 1.5, 1e30, 1e-30, math.nan, math.inf, -math.inf, 2**31, 2**64]
ODDITIES: list[Any] = [None, True, "", "1", "1e-3", "nan", "²", "--5", [], [1], [None], {}, [[1]],
                       "cat", "x" * 300, "a\0b", "\ud800", (1, 2), b"1"]  # fmt: skip
WORDS = ["0", "1", "2", "-1", "0.5", "nan", "inf", "1e999", str(2**64), "1000000000", "", "²", "٣",
         "x" * 300, "--5", "None", "[]", "{", '{"a": NaN}', "/dev/zero", "/proc/self", "cat",
         "auto", "\udcff"]  # fmt: skip
TRAIN = ["--limit", "32", "--batch-size", "8", "--steps", "1", "--sample-every", "0",
         "--device", "cpu", "--dtype", "float32"]  # fmt: skip
SWITCHES = {
    "sample": "classes per-class steps guidance interval power solver seed batch-size out strip "
    "gif device dtype checkpoint",
    "data": "data split image-size look out columns",
    "train model": "dataset limit output resume batch-size grad-accum seed optimizer lr lr-floor "
    "warmup-steps weight-decay betas grad-clip ema-decay log-every save-every keep sample-steps "
    "sample-guidance class-dropout leave-out second-ema-decay architecture tokenizer init-from "
    "stage-strides head-draws direction-loss time-tilt align shape model config preset",
    "train tokenizer": "dataset limit output batch-size seed lr betas tokenizer test-limit dtype",
    "doctor": "images device data",
}


class Silent(AssertionError):
    """A result that is wrong without a word."""


def holds(condition: Any, what: str) -> None:
    if not condition:
        raise Silent(what)


class House:
    """What the cases start from, made once: a checkpoint, a folder of images."""

    def __init__(self, folder: Path):
        torch.manual_seed(0)
        self.folder = folder
        self.checkpoint = folder / "tiny"
        self.model = ECAR(
            latent_size=8, latent_channels=3, patch_size=2, num_stages=2, num_classes=3,
            class_names=CLASSES, num_inference_steps=[2, 2], **TINY,
        ).eval()  # fmt: skip
        self.pipe = ECARPipeline(model=self.model, tokenizer=IdentityTokenizer())
        self.pipe.set_progress_bar_config(disable=True)
        self.pipe.save_pretrained(self.checkpoint)
        self.pictures = folder / "pictures"
        for number, name in enumerate(CLASSES):
            (self.pictures / name).mkdir(parents=True)
            for copy in range(3):
                tone = Image.new("RGB", (8, 8), (40 * number, 60 * copy, 128))
                tone.save(self.pictures / name / f"{copy}.png")


def through_the_command_line(house: House, draw: random.Random) -> str:
    command = draw.choice(list(SWITCHES))
    arguments = {
        "sample": ["--checkpoint", str(house.checkpoint), "--device", "cpu", "--classes", "cat"],
        "data": [draw.choice([str(house.pictures), "digits", *WORDS])],
        "train model": ["--tokenizer", "identity", "--model", json.dumps(TINY), *TRAIN],
        "train tokenizer": [*TRAIN, "--test-limit", "4", "--tokenizer", '{"width": 16}'],
        "doctor": [str(house.checkpoint), "--images", "2", "--device", "cpu"],
    }[command]
    if command.startswith("train"):
        arguments += ["--output", "run"]
    for switch in draw.sample(SWITCHES[command].split(), draw.choice([1, 1, 2])):
        values = draw.choices(WORDS, k=draw.choice([1, 1, 1, 2, 0]))
        arguments += [f"--{switch}", *values]
    said, out = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(out):
        try:
            status = cli.main([*command.split(), *arguments])
        except SystemExit as stop:
            raise Silent(f"ended by itself with {stop.code}: {said.getvalue()[-300:]}") from stop
    if status == 2:
        lines = [line for line in said.getvalue().splitlines() if line.startswith("error: ")]
        holds(len(lines) == 1, f"{len(lines)} sentences: {said.getvalue()[-500:]}")
        raise EcarError(lines[0].removeprefix("error: "))
    holds(status == 0 or (command == "doctor" and status == 1), f"exit status {status}")
    if command == "sample":
        pictures = [path for path in Path().rglob("*") if path.suffix in (".png", ".jpg", ".webp")]
        holds(pictures, "no picture was written")
        holds(all(np.asarray(Image.open(path)).size for path in pictures), "an empty picture")
    if command.startswith("train"):
        holds("run folder: " in out.getvalue(), "no run folder was named")
    return f"{command} did it"


def through_a_configuration(house: House, draw: random.Random) -> str:
    kind = draw.choice([TokenizerTrainConfig, ModelTrainConfig, TurboTrainConfig])
    content = kind.from_preset("digits").to_dict()
    changed = draw.sample(list(content), draw.choice([1, 1, 2]))
    for name in changed:
        content[name] = draw.choice([*NUMBERS, *[o for o in ODDITIES if not isinstance(o, bytes)]])
    text = json.dumps(content).encode(draw.choice(["utf-8"] * 6 + ["utf-16", "utf-8-sig"]))
    text = damaged(text, draw) if draw.random() < 0.3 else text
    Path("config.json").write_bytes(text)
    config = kind.from_json("config.json")
    config.check()
    stored = config.to_dict()
    Path("again.json").write_text(json.dumps(stored), encoding="utf-8")
    holds(kind.from_json("again.json") == config, "it does not survive its file")
    holds("NaN" not in json.dumps(stored) and "Infinity" not in json.dumps(stored), "not finite")
    return "a configuration"


def through_the_pipeline(house: House, draw: random.Random) -> str:
    labels = draw.choice([0, "cat", ["dog", 2], [0, 1, 2], torch.tensor([1]), np.int64(1)])
    junk = {
        "class_labels": labels,
        "num_inference_steps": 1,
        "output_type": draw.choice(["pt", "np", "pil", "latent"]),
        "generator": torch.Generator().manual_seed(0),
    }
    for name in draw.sample(
        ["class_labels", "num_inference_steps", "guidance_scale", "generator", "output_type",
         "solver", "time_power", "guidance_interval", "renoise", "dtype",
         "callback_on_step_end_tensor_inputs"],
        draw.choice([0, 1, 1, 2]),
    ):  # fmt: skip
        wrong = draw.choice([*NUMBERS, *ODDITIES])
        junk[name] = draw.choice([wrong, [wrong, wrong], torch.tensor([1.0]), np.array([2, 1])])
    asked = junk.pop("class_labels")
    images = house.pipe(asked, **junk).images
    wanted = len(asked) if isinstance(asked, list | tuple) else getattr(asked, "shape", [1])
    wanted = wanted if isinstance(wanted, int) else int(np.prod(wanted or [1]))
    holds(len(images) == wanted, f"{len(images)} images for {wanted} labels {asked!r}")
    values = np.stack([np.asarray(image, dtype=np.float64) for image in images])
    holds(np.isfinite(values).all(), f"images are not finite under {junk}")
    return f"{len(images)} images"


def through_trace(house: House, draw: random.Random) -> str:
    options: dict[str, Any] = {"num_inference_steps": 1}
    for name in draw.sample(
        ["num_inference_steps", "guidance_scale", "generator", "guidance_interval", "time_power",
         "solver", "start_from", "class_labels_from", "noise", "edits", "renoise",
         "attention_layer"],
        draw.choice([1, 1, 2]),
    ):  # fmt: skip
        wrong = draw.choice([*NUMBERS, *ODDITIES])
        options[name] = draw.choice([wrong, [wrong], {1: wrong}, {0: torch.zeros(1)}])
    events = list(trace(house.model, ["cat", "dog"], **options))
    holds(len(events) >= 2, f"{len(events)} events")
    for event in events:
        holds(len(event.latent) == 2, f"{len(event.latent)} latents for 2 labels under {options}")
        holds(event.latent.isfinite().all(), f"a latent is not finite under {options}")
    return f"{len(events)} events"


def through_a_data_set(house: House, draw: random.Random) -> str:
    place = Path(shutil.copytree(house.pictures, "pictures"))
    files = sorted(place.rglob("*.png"))
    for file in draw.sample(files, draw.choice([0, 1, 3, len(files)])):
        harm(file, draw)
    extra = draw.choice(["", "", "readme.txt", "train", "cat/deep/more", ".hidden"])
    if extra.endswith(".txt"):
        (place / extra).write_text("words")
    elif extra:
        (place / extra).mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {}
    for name in draw.sample(["split", "image_size", "limit", "flip", "seed", "label_column"], 1):
        options[name] = draw.choice([*NUMBERS[:8], 4, 5, "train", "test", "none", *ODDITIES])
    data = open_dataset(str(place), **options)
    images, labels = data.arrays()
    holds(len(images) == len(labels), f"{len(images)} images and {len(labels)} labels")
    holds(0 < len(images) <= len(files), f"{len(images)} images of {len(files)} files")
    holds(labels.min() >= 0 and labels.max() < data.info.num_classes, "a label without a class")
    known = {"image"} if options.get("label_column") == "none" else {*CLASSES, "pictures"}
    holds(set(data.info.class_names) <= known, f"classes {data.info.class_names}")
    return f"{len(images)} images of {options}"


def through_a_checkpoint(house: House, draw: random.Random) -> str:
    folder = Path(shutil.copytree(house.checkpoint, "checkpoint"))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    file = draw.choice(files)
    if file.suffix == ".json" and draw.random() < 0.7:
        content = json.loads(file.read_text())
        name = draw.choice(list(content))
        content[name] = draw.choice([*NUMBERS, *[o for o in ODDITIES if not isinstance(o, bytes)]])
        file.write_text(json.dumps(content))
    else:
        harm(file, draw)
    pipe = ECARPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    images = pipe([0], 1, output_type="np").images
    holds(len(images) == 1, f"{len(images)} images for one label")
    holds(np.isfinite(np.asarray(images)).all(), f"images are not finite after {file.name}")
    return f"an image in spite of {file.relative_to(folder)}"


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Cut short, a byte changed, or something put in."""
    place = draw.randrange(len(content) + 1)
    insert = draw.choice([b"\0", b"\xff\xfe", b"NaN", b"[" * 2000, b"9" * 5000, b'"', b"{}"])
    changed = bytes([draw.randrange(256)])
    return draw.choice(
        [content[:place], content[:place] + insert + content[place:],
         content[:place] + changed + content[place + 1 :], b"", b" " * 100]
    )  # fmt: skip


def harm(file: Path, draw: random.Random) -> None:
    """A damaged file, or something else in its place."""
    how = draw.randrange(8)
    if how < 5:
        file.write_bytes(damaged(file.read_bytes(), draw))
        return
    file.unlink()
    if how == 5:
        os.mkfifo(file)
    elif how == 6:
        file.symlink_to("/dev/zero")
    else:
        file.mkdir()


DOORS: dict[str, Callable[[House, random.Random], str]] = {
    "command line": through_the_command_line,
    "configuration": through_a_configuration,
    "pipeline": through_the_pipeline,
    "trace": through_trace,
    "data set": through_a_data_set,
    "checkpoint": through_a_checkpoint,
}
