"""The card of a checkpoint on the Hub: what it says of itself, and its metrics for machines."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ecar_lab.data.opening import HUB_IDS
from ecar_lab.documents import read_json, read_text
from ecar_lab.errors import EcarError, reason
from ecar_lab.evaluation.evaluate import trained_on
from ecar_lab.home import home
from ecar_lab.schema import short
from ecar_lab.stored import fingerprint

TASK = "unconditional-image-generation"  # of the Hub's tasks the nearest: classes, no text
TAGS = ["e-car", "class-conditional", "flow-matching", "autoregressive", "ecar-lab"]
USAGE = """
## With diffusers

Where the kit is installed (`pip install ecar-lab`):

```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained(
    "{repository}", custom_pipeline="{repository}", trust_remote_code=True
)
```

`pipeline.py` only imports the kit. `ecar pull {repository}` fetches the weights without any code.
"""
OLD_USAGE = re.compile(r"^## With diffusers\n.*?custom_pipeline=.*?(?=^## |\Z)", re.M | re.S)
ROW = re.compile(r"^\|\s*([^|]+?)\s*\|\s*(-?[\d,]+(?:\.\d+)?(?:e-?\d+)?)\s*\|$", re.MULTILINE)


def write_hub_card(
    card: Path, checkpoint: Path, repository: str, results: str | Path | None
) -> int:
    """Gives ``README.md`` the Hub's metadata; its words stay, and how to load it is added.

    Args:
        card: the file, whose words are kept if it is there. checkpoint: the folder it is about.
        results: what ``ecar evaluate --out`` wrote; None: as :func:`measured`.

    Returns:
        How many metrics it holds.

    Raises:
        EcarError: results of another checkpoint, metadata that cannot be read.
    """
    from huggingface_hub import ModelCard, ModelCardData

    name = repository.partition("/")[2]
    remedy = "write it anew, or leave it out"
    words = read_text(card, "the card", remedy) if card.is_file() else f"# {name}\n"
    found = measured(checkpoint, results)
    dataset = HUB_IDS.get(dataset_of(checkpoint), "").partition(":")[0]
    try:
        known = ModelCard(words)
        found = found or getattr(known.data, "eval_results", None) or of_table(checkpoint)
        metadata = known.data.to_dict()
        for replaced in ("library_name", "pipeline_tag", "model-index", "model_name"):
            metadata.pop(replaced, None)
        tags = metadata.pop("tags", None) or []
        data = ModelCardData(
            library_name="diffusers",
            pipeline_tag=TASK,
            tags=list(dict.fromkeys([*([tags] if isinstance(tags, str) else tags), *TAGS])),
            datasets=metadata.pop("datasets", None) or dataset or None,
            model_name=name if found else None,
            eval_results=found or None,
            **metadata,
        ).to_yaml()
    except Exception as error:  # yaml raises a family of types, and metadata can be anything
        raise EcarError(
            f"the metadata at the head of README.md cannot be read ({reason(error)}): mend the "
            "lines between the --- there"
        ) from error
    # What was said of an earlier repository goes.
    text = OLD_USAGE.sub("", known.text).strip("\n") + "\n" + USAGE.format(repository=repository)
    card.write_text(f"---\n{data}\n---\n{text}", encoding="utf-8")
    return len(found)


def dataset_of(checkpoint: Path) -> str:
    """The name of the set that a checkpoint was trained on, without a folder; else "unknown"."""
    try:
        return Path(trained_on(checkpoint)).name or "unknown"
    except (EcarError, TypeError):
        return "unknown"


def measured(checkpoint: Path, results: str | Path | None) -> list[Any]:
    """The metrics of a checkpoint: of the results that are named, else of those that ship and are
    of these weights; without either none.

    Raises:
        EcarError: the results that are named are of another checkpoint, or none.
    """
    if results is not None:
        found = read_json(results, "the results", "give the file that `ecar evaluate --out` wrote")
        if not isinstance(found.get("metrics"), dict):
            raise EcarError(
                f"{str(results)!r} holds no metrics: give the file that `ecar evaluate --out` wrote"
            )
        if found.get("checkpoint_hash") != fingerprint(checkpoint):
            raise EcarError(
                f"{str(results)!r} was measured on another checkpoint "
                f"({short(found.get('checkpoint'))}): evaluate this one with "
                f"`ecar evaluate --checkpoint {checkpoint} --out`"
            )
        return of_results(found)
    for file in sorted((home() / "data" / "results").glob("evaluate-*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        if found.get("checkpoint_hash") == fingerprint(checkpoint):
            return of_results(found)
    return []


def of_results(found: dict[str, Any]) -> list[Any]:
    """The metrics that ``ecar evaluate`` wrote, with the settings that they hold for."""
    dataset, sampling = str(found.get("dataset", "unknown")), plain(found.get("sampling"))
    names = ("num_samples", "seed", "num_inference_steps", "guidance_scale", "solver")
    settings = {name: sampling[name] for name in names if name in sampling}
    split = str(plain(found.get("reference")).get("split", "test"))
    values = {
        key: value
        for key, value in found["metrics"].items()
        if isinstance(value, int | float) and key != "images"
    }
    accuracy = plain(found.get("class_accuracy"))
    if isinstance(right := accuracy.get("generated"), float):
        values[f"accuracy[{accuracy.get('classifier')}]"] = right
    return [result(dataset, split, key, value, settings) for key, value in values.items()]


def plain(value: Any) -> dict[str, Any]:
    """An object of JSON, empty if it is none."""
    return value if isinstance(value, dict) else {}


def of_table(checkpoint: Path) -> list[Any]:
    """The numbers of the rows of two cells under "Measured", as a trainer writes them."""
    try:
        words = (checkpoint / "README.md").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return []
    section = words.partition("\n## Measured")[2].partition("\n## ")[0]
    rows = {key: float(value.replace(",", "")) for key, value in ROW.findall(section)}
    return [result(dataset_of(checkpoint), None, key, value) for key, value in rows.items()]


def result(
    dataset: str, split: str | None, key: str, value: float, settings: dict[str, Any] | None = None
) -> Any:
    """One metric; a distance says on which features, for only Inception's is the FID."""
    from huggingface_hub import EvalResult

    kind, _, features = key.partition("[")
    features = features.rstrip("]")
    name = kind.replace("_", " ")
    if features:
        name += f" on {features}"
        name += " (not FID)" if kind == "frechet_distance" and "inception" not in features else ""
    return EvalResult(
        task_type=TASK,
        task_name="class-conditional image generation",
        dataset_type=HUB_IDS.get(dataset, dataset).partition(":")[0],
        dataset_name=dataset,
        dataset_split=split,
        metric_type=re.sub(r"\W+", "_", kind).strip("_"),
        metric_name=name,
        metric_value=round(value, 6),
        metric_args=settings or None,
    )
