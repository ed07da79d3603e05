"""Tries the doors of the kit with seeded random input: command line, files, folders, Python.

    python tests/scripts/fuzz_doors.py --cases 300 --seed 0

Each case must end as a right result (as many images as asked for, all numbers finite, classes that
exist) or as one sentence of an ``EcarError``. Tracebacks, hangs and silent wrong results are listed
with the number that repeats them (``--only 17``), and the exit status is 1. Before all that, three
cases that are wrong on purpose must be found.
"""

import argparse
import contextlib
import io
import json
import math
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
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

METHOD = "fork" if sys.platform == "linux" else "spawn"
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


# -- the doors -------------------------------------------------------------------------------------


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
    holds(set(data.info.class_names) <= {*CLASSES, "pictures"}, f"classes {data.info.class_names}")
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


# -- faults on purpose -----------------------------------------------------------------------------


def crashes(house: House, draw: random.Random) -> str:
    raise ZeroDivisionError("on purpose")


def hangs(house: House, draw: random.Random) -> str:
    while True:
        time.sleep(1)


def lies(house: House, draw: random.Random) -> str:
    holds(math.isfinite(math.nan), "on purpose")
    return "a result"


ON_PURPOSE = {"traceback": crashes, "hang": hangs, "silent": lies}

# -- running them ----------------------------------------------------------------------------------


def judge(door: Callable, house: House, draw: random.Random) -> tuple[str, str]:
    """(verdict, detail): right, sentence, silent or traceback."""
    try:
        return "right", door(house, draw)
    except EcarError as error:
        text = str(error)
        if "\n" in text or ": " not in text or len(text) > 2000:
            return "silent", f"no sentence with a remedy: {text[:400]!r}"
        return "sentence", text
    except Silent as wrong:
        return "silent", str(wrong)
    except BaseException:
        return "traceback", traceback.format_exc(limit=-4)


def work(connection, house: House, seed: int) -> None:
    """Answers case after case until it is told to end."""
    torch.set_num_threads(1)
    mute = os.open(os.devnull, os.O_WRONLY)
    os.dup2(mute, 1)
    os.dup2(mute, 2)
    while (case := connection.recv()) is not None:
        name, number = case
        door = {**DOORS, **ON_PURPOSE}[name]
        with tempfile.TemporaryDirectory(dir=house.folder) as folder:
            os.chdir(folder)
            try:
                verdict = judge(door, house, random.Random(f"{seed} {number}"))
            finally:
                os.chdir(house.folder)
        connection.send(verdict)


class Pool:
    """One worker, begun anew whenever a case does not come back."""

    def __init__(self, house: House, seed: int, patience: float):
        self.house, self.seed, self.patience = house, seed, patience
        self.context: Any = multiprocessing.get_context(METHOD)
        self.start()

    def start(self) -> None:
        self.here, there = self.context.Pipe()
        self.process = self.context.Process(target=work, args=(there, self.house, self.seed))
        self.process.start()
        there.close()

    def ask(self, name: str, number: int) -> tuple[str, str]:
        self.here.send((name, number))
        try:
            if self.here.poll(self.patience):
                return self.here.recv()
            verdict = "hang", f"no answer within {self.patience:g} seconds"
        except EOFError:
            verdict = "traceback", "the process died"
        self.end()
        self.start()
        return verdict

    def end(self) -> None:
        self.process.kill()
        self.process.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patience", type=float, default=120, help="seconds before it is a hang")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of cases to repeat")
    parser.add_argument("--door", choices=list(DOORS), help="one door only")
    chosen = parser.parse_args()
    if chosen.cases < 1:
        parser.error("--cases is below 1: nothing would be tried")
    started, verdicts, faults = time.monotonic(), Counter(), 0
    with tempfile.TemporaryDirectory(prefix="doors-") as folder:
        house = House(Path(folder))
        pool = Pool(house, chosen.seed, chosen.patience)
        for expected in ON_PURPOSE:
            pool.patience = 2.0 if expected == "hang" else chosen.patience
            found, _ = pool.ask(expected, 0)
            if found != expected:
                print(f"a {expected} on purpose was taken for: {found}. This check checks nothing.")
                return 1
        pool.patience = chosen.patience
        numbers = chosen.only if chosen.only is not None else range(chosen.cases)
        names = list(DOORS)
        for number in numbers:
            name = names[number % len(names)]
            if chosen.door not in (None, name):
                continue
            verdict, detail = pool.ask(name, number)
            verdicts[verdict] += 1
            if verdict not in ("right", "sentence"):
                faults += 1
                print(f"-- case {number}, {name}: {verdict}\n{detail}", flush=True)
            elif chosen.only is not None:
                print(f"-- case {number}, {name}: {verdict}\n{detail}", flush=True)
        pool.end()
    counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
    minutes = (time.monotonic() - started) / 60
    print(f"{sum(verdicts.values())} cases in {minutes:.1f} min, seed {chosen.seed}: {counts}")
    return 1 if faults or not verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
