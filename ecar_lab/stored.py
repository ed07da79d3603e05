"""What every network of the kit has in common on its way to the disk and back.

A network that was loaded holds what was saved: every weight that its config asks for, floating and
finite, in files whose bytes are those that were written. Anything else is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import diffusers
import torch
from diffusers.models.modeling_utils import ModelMixin
from safetensors import SafetensorError, safe_open
from torch import nn

from ecar_lab.arguments import as_dtype, whole_number
from ecar_lab.bounds import BoundedConfig
from ecar_lab.errors import EcarError, reason
from ecar_lab.files import as_folder, resolve_checkpoint, verify_checksums
from ecar_lab.schema import short

CONFIG, INDEX, WEIGHTS = "config.json", "model_index.json", "diffusion_pytorch_model"
AGAIN = "fetch or train it again"
VARIANT, SHARD = re.compile(r"\w+"), re.compile(r"[1-9]\d*(\.\d+)? ?[KMGT]B", re.IGNORECASE)


class StoredNetwork(ModelMixin, BoundedConfig):
    """A diffusers model whose ``from_pretrained`` refuses what it cannot vouch for."""

    # Arguments that no saved config lacks, and whose default would be another network's: neither
    # the name nor the shape of a weight would show it.
    always_saved: ClassVar[Sequence[str]] = ()
    # Read outside their layer's forward, where no hook can cast them.
    _skip_layerwise_casting_patterns = ("embedding", "table", "codes")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Where diffusers looks for the parts of a pipeline on the Hub: it takes no other package's.
        if cls.__name__ not in dir(diffusers):
            setattr(diffusers, cls.__name__, cls)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """As of diffusers, from safetensors only; ``dtype`` may be a name, e.g. ``bfloat16``.

        Raises:
            EcarError: files that are not the saved ones; weights that are missing, not known, not
                floating or not finite; a config without an entry that decides on the output.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        kwargs = {**kwargs, "use_safetensors": True, "output_loading_info": True}
        for name in kwargs.keys() & {"dtype", "torch_dtype"}:
            kwargs[name] = as_dtype(kwargs[name])
        place, subfolder = pretrained_model_name_or_path, str(kwargs.get("subfolder") or "")
        if not is_hub_id(place):
            place = str(resolve_checkpoint(place))
            folder = Path(place) / subfolder
            verify_checksums(folder, ".safetensors")
            check_config(folder, cls.always_saved)
            kwargs["variant"] = find_variant(folder, kwargs.get("variant"))
        try:
            loaded: Any = super().from_pretrained(place, **kwargs)
        except EcarError:
            raise
        except Exception as error:  # diffusers and safetensors raise a dozen kinds
            raise unreadable(place, subfolder, error) from error
        network, info = loaded
        folder = Path(place) / subfolder
        check_weights(network, info, folder)
        return (network, info) if wants_info else network

    def save_pretrained(  # ty: ignore[incompatible-method-override]
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        save_function: Any = None,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str = "10GB",
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """As of diffusers, from which weights of an earlier save may stay: here they go first.

        Raises:
            EcarError: no folder, a variant or a size that is none, pickles are asked for.
        """
        folder = as_folder(save_directory)
        check_saving(safe_serialization, variant, max_shard_size)
        stem = f"{WEIGHTS}.{variant}" if variant else WEIGHTS
        index = f"{WEIGHTS}.safetensors.index.{variant}.json".replace(".None", "")
        # One file of all weights beside shards, or shards beside it: one of them would be loaded.
        for old in (index, f"{stem}.safetensors", f"{stem}-[0-9]*-of-[0-9]*.safetensors"):
            for file in folder.glob(old) if is_main_process else ():
                file.unlink()
        super().save_pretrained(
            str(folder), is_main_process, save_function, True, variant, max_shard_size,
            push_to_hub, **kwargs,
        )  # fmt: skip

    def enable_layerwise_casting(
        self,
        storage_dtype: torch.dtype = torch.float8_e4m3fn,
        compute_dtype: torch.dtype | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """As of diffusers; what is not stored in ``storage_dtype`` computes alike, too."""
        if compute_dtype is not None:
            nn.Module.to(self, compute_dtype)
        super().enable_layerwise_casting(storage_dtype, compute_dtype, *args, **kwargs)


def check_saving(
    safe_serialization: Any, variant: Any, max_shard_size: int | str | None = None
) -> None:
    """Refuses ways of saving after which nothing could be loaded.

    Raises:
        EcarError: naming the argument.
    """
    if not safe_serialization:
        raise EcarError("this kit neither writes nor reads pickles: leave safe_serialization on")
    if variant is not None and not (isinstance(variant, str) and VARIANT.fullmatch(variant)):
        raise EcarError(f"variant {short(variant)}: use letters and digits, e.g. 'fp16'")
    number = whole_number(max_shard_size)
    if isinstance(max_shard_size, str) and SHARD.fullmatch(max_shard_size):
        return
    if max_shard_size is not None and (number is None or number < 1):
        raise EcarError(f"max_shard_size {short(max_shard_size)}: use bytes, or a text as '5GB'")


def is_hub_id(place: Any) -> bool:
    """Whether a name is an ``owner/name`` of the Hub: it looks like one, and is nothing here."""
    name = str(place)
    return name.count("/") == 1 and name[0] not in "./~" and not Path(name).exists()


def unreadable(place: str, subfolder: str, error: Exception) -> EcarError:
    """The sentence for a network that diffusers could not load."""
    said = reason(error)
    if is_hub_id(place):
        return EcarError(
            f"{place!r} is no folder, and the Hub gives no network of that name ({said}): "
            "check the spelling and the network, or give a folder"
        )
    folder = Path(place) / subfolder
    shape = "shape" in str(error)
    remedy = "keep config.json and weights of one training together" if shape else AGAIN
    if isinstance(error, ValueError | TypeError) and not shape:  # an argument, as a rule
        remedy = f"leave out the argument that it names, or {AGAIN}"
    words = ", they have another shape than its config.json says" if shape else ""
    if isinstance(error, OSError | SafetensorError):
        words = ", they are missing, cut short or not safetensors"
    return EcarError(f"the weights in {str(folder)!r} cannot be loaded{words} ({said}): {remedy}")


def bring(network: nn.Module) -> None:
    """Fetches a network that ``enable_model_cpu_offload`` keeps off the GPU until it is called.

    diffusers fetches it when its ``forward`` is called, which nothing here does.
    """
    hook = getattr(network, "_hf_hook", None)
    if hook is not None and next(network.parameters(), None) is not None:
        hook.pre_forward(network)


def check_config(folder: Path, always_saved: Sequence[str]) -> None:
    """Refuses a config.json that leaves open what the network is.

    Raises:
        EcarError: naming the first entry that is missing; there is no such file.
    """
    if not (folder / CONFIG).is_file():
        remedy = "subfolder='model' or subfolder='tokenizer' in it, or ECARPipeline"
        whole = f"is a whole checkpoint: use {remedy}" if (folder / INDEX).is_file() else "has none"
        raise EcarError(f"a network has a {CONFIG}, {str(folder)!r} {whole}")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # which the loader has a sentence for
    missing = [name for name in always_saved if isinstance(config, dict) and name not in config]
    if missing:
        raise EcarError(
            f"{str(folder / CONFIG)!r} does not say {missing[0]}, which the images depend on: "
            "copy the file again, or add what the model was trained with"
        )


def find_variant(folder: Path, named: str | None) -> str | None:
    """The variant whose weights a folder holds, if it holds no others; else the one named.

    Raises:
        EcarError: several, of which none was named; not the one that was.
    """
    stems = {file.name.split("-00")[0] for file in folder.glob(f"{WEIGHTS}*.safetensors")}
    variants = {stem.removesuffix(".safetensors").removeprefix(WEIGHTS)[1:] for stem in stems}
    if (named or "") in variants or not variants:
        return named
    others = sorted(variants - {""})
    if named is None and len(others) == 1:
        return others[0]
    if named is None:
        raise EcarError(
            f"{str(folder)!r} holds the variants {', '.join(others)}: "
            f"name one, variant={others[0]!r}"
        )
    remedy = f"use {' or '.join(others)}" if others else "leave variant out"
    raise EcarError(f"there is no variant {named!r} in {str(folder)!r}: {remedy}")


def check_weights(network: nn.Module, info: dict[str, Any], folder: Path) -> None:
    """Refuses a loaded network whose weights are not all there, floating and finite.

    Args:
        info: diffusers' ``loading_info``. folder: where the weights lie.

    Raises:
        EcarError: naming the first such weight.
    """
    kinds = [
        ("missing_keys", "is missing, so the weights have another shape than config.json says"),
        ("unexpected_keys", "is too much, so the weights have another shape than config.json says"),
        ("mismatched_keys", "has another shape than config.json says"),
    ]
    for kind, words in kinds:
        for name in info.get(kind, ()):
            raise refused(folder, name if isinstance(name, str) else name[0], words)
    stored, trained = stored_types(folder), dict(network.named_parameters())
    for name, tensor in network.state_dict().items():
        if tensor.is_meta:
            raise refused(folder, name, "is missing")
        if not tensor.is_floating_point() and name not in trained:
            continue
        if stored.get(name, "F").startswith(("I", "U", "BOOL")):
            raise refused(folder, name, f"is stored in whole numbers ({stored[name]})")
        if not tensor.float().isfinite().all():
            raise refused(folder, name, "holds numbers that are not finite")


def refused(folder: Path, name: str, words: str) -> EcarError:
    """The sentence for weights that no image may be made with."""
    return EcarError(f"the checkpoint {str(folder)!r} cannot be loaded ({name} {words}): {AGAIN}")


def stored_types(folder: Path) -> dict[str, str]:
    """What the safetensors of a folder say of their types, e.g. ``BF16``, by the weight's name."""
    types: dict[str, str] = {}
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, framework="pt") as file:
                types |= {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        except SafetensorError:  # which the loader has a sentence for, if it reads this file
            continue
    return types


def find_pipeline(folder: Path) -> Path:
    """The folder itself, if a pipeline lies in it.

    Raises:
        EcarError: something else does; the sentence says what, and where a pipeline is.
    """
    if (folder / INDEX).is_file():
        return folder
    place = str(folder)
    if (folder / "checkpoints").is_dir() or (folder / "metrics.jsonl").is_file():
        raise EcarError(
            f"the training in {place!r} has not finished: run it again, it goes on until there is "
            "a final/"
        )
    if (folder / "state.json").is_file():
        raise EcarError(
            f"{place!r} is a step of a training, to go on from: use the final/ of its run"
        )
    if (folder / CONFIG).is_file() and (folder.parent / INDEX).is_file():
        raise EcarError(f"{place!r} is one part of a checkpoint: use {str(folder.parent)!r}")
    if (folder / CONFIG).is_file():
        raise EcarError(
            f"{place!r} holds one network: load it with its class's from_pretrained, and give "
            "model and tokenizer to ECARPipeline(model=..., tokenizer=...)"
        )
    if (folder / "tokenizer" / CONFIG).is_file():
        raise EcarError(
            f"{place!r} holds a tokenizer and no model: train one on its latents, "
            f"`ecar train model --tokenizer {place}`, and use the final/ of that run"
        )
    below = sorted(file.parent.relative_to(folder).as_posix() for file in folder.glob(f"*/{INDEX}"))
    if below:
        raise EcarError(f"{place!r} holds several checkpoints: use one, e.g. {below[0]!r} in it")
    raise EcarError(
        f"there is no checkpoint in {place!r}, for it has no {INDEX}: give the folder that "
        "save_pretrained or a training has written"
    )


def fingerprint(path: Path) -> str:
    """First 16 hex digits of the SHA-256 of a file, or of a folder's weights and configurations.

    Cards and results beside them may change without making it another checkpoint.
    """
    digest = hashlib.sha256()
    wanted = ("*.safetensors", "config.json", "model_index.json")
    found = {file for pattern in wanted for file in path.rglob(pattern)}
    files = [path] if path.is_file() else sorted(found)
    for file in files:
        with open(file, "rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()[:16]
