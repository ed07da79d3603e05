"""A pipeline on its way to the disk, to a device and back: :class:`StoredPipeline`."""

from __future__ import annotations

from glob import escape
from inspect import signature
from pathlib import Path
from typing import Any, Self

import diffusers
import torch
from diffusers.pipelines.pipeline_utils import SUPPORTED_DEVICE_MAP, DiffusionPipeline
from safetensors import SafetensorError

import ecar_lab.tokenizer  # noqa: F401  where saved tokenizers say that their classes live
from ecar_lab.arguments import DTYPES, as_dtype, check_keywords
from ecar_lab.errors import EcarError, reason
from ecar_lab.files import as_folder, resolve_checkpoint, write_checksums, write_error
from ecar_lab.schema import short
from ecar_lab.stored import AGAIN, WEIGHTS, check_saving, find_pipeline

TOKENIZER_HASH = "_tokenizer_hash"  # in the model's config
# What from_pretrained of diffusers takes and means something for two networks in a folder.
LOADING = (
    *("dtype", "torch_dtype", "device_map", "max_memory", "low_cpu_mem_usage", "disable_mmap"),
    *("variant", "use_safetensors", "local_files_only", "cache_dir", "force_download", "proxies"),
    *("token", "revision", "custom_pipeline", "custom_revision", "trust_remote_code"),
    *("quantization_config", "load_connected_pipeline", "subfolder"),
)
CODE = "pipeline.py"
IMPORT = '''"""For diffusers, where nothing has imported the kit (which must be installed):

DiffusionPipeline.from_pretrained(folder, custom_pipeline="pipeline", trust_remote_code=True)
"""

from {module} import {name} as Pipeline

__all__ = ["Pipeline"]
'''


class StoredPipeline(DiffusionPipeline):
    """A pipeline of ``model`` and ``tokenizer`` that are loaded whole or not at all."""

    model: Any
    tokenizer: Any

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Where DiffusionPipeline.from_pretrained looks for the class that a folder names.
        setattr(diffusers, cls.__name__, cls)

    @classmethod
    def from_pretrained(  # ty: ignore[incompatible-method-override]
        cls, pretrained_model_name_or_path: str | Path, **kwargs: Any
    ) -> Self:
        """Loads a folder (or a shipped checkpoint's name); safetensors only, nothing is unpickled.

        Args:
            kwargs: as of diffusers; ``subfolder``, too. ``dtype`` may be a name, ``bfloat16``;
                ``device_map`` is ``balanced`` (or ``auto``, which is the same), ``cpu`` or
                ``cuda``; a variant that is the only one there need not be named.

        Raises:
            EcarError: an unknown keyword; no such checkpoint, something else in its place, a
                damaged file, weights of another shape, not finite or not floating, the tokenizer of
                another training.
        """
        parts = [name for name in signature(cls.__init__).parameters if name != "self"]
        asked = [name for name, value in kwargs.items() if value is not None or name in parts]
        check_keywords(asked, (*parts, *LOADING), {}, f"{cls.__name__}.from_pretrained")
        options = {**kwargs, "use_safetensors": True}
        place = pretrained_model_name_or_path
        if subfolder := options.pop("subfolder", None):
            place = Path(str(place)) / str(subfolder)
        folder = find_pipeline(resolve_checkpoint(place))
        if {"dtype", "torch_dtype"} <= set(asked):
            raise EcarError("dtype and torch_dtype are the same: give dtype alone")
        for name in options.keys() & {"dtype", "torch_dtype"}:
            wanted = options[name]
            if not isinstance(wanted, dict):
                options[name] = as_dtype(wanted)
                continue
            check_keywords(wanted, ("default", "model", "tokenizer"), {}, name)
            options[name] = {part: as_dtype(one) for part, one in wanted.items()}
        if options.get("device_map") == "auto":
            options["device_map"] = "balanced"
        check_options(folder, options)
        try:
            return super().from_pretrained(str(folder), **options)
        except EcarError:
            raise
        except Exception as error:  # diffusers and safetensors raise a dozen kinds
            named = sorted(set(asked) - {"dtype", "torch_dtype"})
            remedy = f"leave out {', '.join(named)}, or {AGAIN}" if named else AGAIN
            raise EcarError(
                f"the checkpoint {str(folder)!r} cannot be loaded ({reason(error)}): {remedy}"
            ) from error

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> Self:
        """A pipeline on the same model and tokenizer, which are shared and not cast.

        Raises:
            EcarError: it is no pipeline, or has no model that this one runs; an unknown keyword.
        """
        if not isinstance(pipeline, DiffusionPipeline):
            raise EcarError(f"{short(pipeline)} is no pipeline: load it with from_pretrained first")
        known = (*signature(cls.__init__).parameters, "dtype", "torch_dtype")
        check_keywords(kwargs, known, {}, f"{cls.__name__}.from_pipe")
        parts = {name: getattr(pipeline, name, None) for name in ("model", "tokenizer")}
        kwargs.setdefault("dtype", kwargs.pop("torch_dtype", None) or pipeline.dtype)
        return super().from_pipe(pipeline, **{**parts, **kwargs})

    def save_pretrained(  # ty: ignore[incompatible-method-override]
        self,
        save_directory: str | Path,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Writes ``model/``, ``tokenizer/``, ``model_index.json`` and their ``SHA256SUMS``; and a
        ``pipeline.py`` that imports this class, which nothing here reads: see ``IMPORT``.

        The tokenizer's hash goes into the model's config: no other one will decode its latents.

        Raises:
            EcarError: pickles are asked for, an argument that is none, the folder cannot be
                written, the Hub not reached.
        """
        folder = as_folder(save_directory)
        check_saving(safe_serialization, variant, max_shard_size)
        hub = ("repo_id", "private", "token", "commit_message", "create_pr")
        check_keywords(kwargs, hub if push_to_hub else ("variant", "max_shard_size"), {}, "saving")
        self.model.register_to_config(**{TOKENIZER_HASH: self.tokenizer.content_hash(anew=True)})
        try:
            super().save_pretrained(str(folder), variant=variant, max_shard_size=max_shard_size)
            written = write_import(folder / CODE, type(self))
        except (OSError, SafetensorError) as error:
            raise write_error(folder, error) from error
        write_checksums(folder, ("model", "tokenizer", "model_index.json", *written))
        if push_to_hub:
            try:
                self.push_to_hub(kwargs.pop("repo_id", folder.name), variant=variant, **kwargs)
            except OSError as error:
                raise EcarError(
                    f"{str(folder)!r} is saved but not on the Hub ({reason(error)}): "
                    "go online and log in, or leave push_to_hub out"
                ) from error

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """As of diffusers: a device, a dtype (``bfloat16`` will do), or both.

        Raises:
            EcarError: this machine has no such device, the dtype is none for weights, an unknown
                keyword.
        """
        check_keywords(kwargs, ("device", "dtype", "silence_dtype_warnings"), {}, "to")

        def named(value: Any) -> Any:
            a_dtype = value in DTYPES if isinstance(value, str) else isinstance(value, torch.dtype)
            return as_dtype(value) if a_dtype else value

        try:
            return super().to(
                *map(named, args), **{name: named(value) for name, value in kwargs.items()}
            )
        except (RuntimeError, AssertionError, TypeError, ValueError) as error:
            place = ", ".join(map(str, [*args, *kwargs.values()]))
            raise EcarError(
                f"the pipeline cannot go to {place} ({reason(error)}): use cpu, a GPU that "
                "torch sees, and float32, bfloat16 or float16"
            ) from error

    def enable_model_cpu_offload(self, *args: Any, **kwargs: Any) -> None:
        """As of diffusers: model and tokenizer are on the GPU only while they work.

        Raises:
            EcarError: there is no GPU.
        """
        try:
            super().enable_model_cpu_offload(*args, **kwargs)
        except (RuntimeError, ValueError) as error:
            raise EcarError(f"{reason(error)}: without a GPU leave this call out") from error

    def enable_sequential_cpu_offload(self, *args: Any, **kwargs: Any) -> None:
        """Not here: the model is not called as a whole, which is what moves its weights.

        Raises:
            EcarError: always.
        """
        raise EcarError("these models cannot be moved layer by layer: use enable_model_cpu_offload")

    def enable_group_offload(self, *args: Any, **kwargs: Any) -> None:
        """Not here, for the same reason.

        Raises:
            EcarError: always.
        """
        self.enable_sequential_cpu_offload()


def check_options(folder: Path, options: dict[str, Any]) -> None:
    """Refuses options of ``from_pretrained`` that no sound checkpoint could be loaded with.

    Raises:
        EcarError: a device map or a variant that is not there, code from elsewhere.
    """
    places, variant = options.get("device_map"), options.get("variant")
    if places is not None and places not in SUPPORTED_DEVICE_MAP:
        known = ", ".join(dict.fromkeys(SUPPORTED_DEVICE_MAP))
        raise EcarError(f"device_map {short(places)} is none for a pipeline here: use {known}")
    pattern = f"*/{WEIGHTS}.{escape(str(variant))}*.safetensors"
    if variant is not None and not any(folder.glob(pattern)):
        raise EcarError(f"there is no variant {variant!r} in {str(folder)!r}: leave variant out")
    if options.get("custom_pipeline") is not None:
        raise EcarError(
            "custom_pipeline is for DiffusionPipeline.from_pretrained: the class is here, leave it "
            "out"
        )


def write_import(file: Path, kind: type) -> list[str]:
    """Writes a module for diffusers that imports ``kind``, unless another file has its name.

    Returns:
        Its name, if it was written.

    Raises:
        OSError: the place cannot be written.
    """
    first_line = IMPORT.partition("\n")[0]
    if file.exists() and not file.read_text("utf-8", errors="replace").startswith(first_line):
        return []
    file.write_text(IMPORT.format(module=kind.__module__, name=kind.__name__), encoding="utf-8")
    return [file.name]
