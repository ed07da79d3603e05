"""The generator in the words of diffusers: :class:`ECARPipeline`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import BaseOutput
from diffusers.utils.pil_utils import numpy_to_pil
from torch import Tensor

from ecar_lab.errors import EcarError
from ecar_lab.events import TraceEvent
from ecar_lab.files import resolve_checkpoint
from ecar_lab.generator import LatentGenerator
from ecar_lab.interventions import Generators, Labels
from ecar_lab.model import ECAR
from ecar_lab.tokenizers import makers
from ecar_lab.tokenizers.base import Tokenizer
from ecar_lab.trace import Stream, trace

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
# A checkpoint names the module of each class. Where one has moved: the old name -> today's.
MOVED = {"ecar_lab.tokenizer": makers.__name__}


@dataclass
class ImageOutput(BaseOutput):
    """``images``: a list of PIL images (``pil``), an array (B, H, W, 3) in [0, 1] (``np``), a
    tensor (B, 3, H, W) in [0, 1] (``pt``), or the latent (B, C, R, R) (``latent``)."""

    images: Any


class ECARPipeline(DiffusionPipeline):
    """Tokenizer + model + schedule: class labels in, images out.

    Example:
        >>> pipe = ECARPipeline.from_pretrained("data/checkpoints/cifar10")
        >>> out = pipe(class_labels=["cat", 5], num_inference_steps=[8, 6, 4], guidance_scale=2.0,
        ...            generator=torch.Generator().manual_seed(0))
        >>> out.images[0].save("cat.png")
    """

    model_cpu_offload_seq = "model->tokenizer"
    _callback_tensor_inputs: ClassVar[list[str]] = ["latents"]

    makes: ClassVar[type[LatentGenerator]] = ECAR

    def __init__(self, model: ECAR, tokenizer: Tokenizer):
        super().__init__()
        if not isinstance(model, self.makes):
            raise EcarError(
                f"this checkpoint holds a {type(model).__name__}, which {type(self).__name__} "
                "does not run: use ecar_lab.baselines.load_pipeline"
            )
        side, channels = model.config.latent_size, model.config.latent_channels
        if tokenizer.latent_channels != channels:
            raise EcarError(
                f"the tokenizer has {tokenizer.latent_channels} latent channels, "
                f"the model {channels}: "
                "use the tokenizer that the model was trained with"
            )
        self.register_modules(model=model, tokenizer=tokenizer)
        self.image_size = side * tokenizer.downsample_factor

    @classmethod
    def from_pretrained(  # ty: ignore[incompatible-method-override]
        cls, pretrained_model_name_or_path: str | Path, **kwargs
    ) -> Self:
        """Loads a folder (or a shipped checkpoint's name); safetensors only, nothing is unpickled.

        Raises:
            EcarError: no such checkpoint, a damaged file, weights of another shape.
        """
        folder = resolve_checkpoint(pretrained_model_name_or_path)
        kwargs["use_safetensors"] = True
        try:
            pipe = super().from_pretrained(str(folder), **kwargs)
            missing = [name for name, tensor in pipe.tensors() if tensor.is_meta]
            if missing:
                raise ValueError(f"{missing[0]} is missing")
            return pipe
        except EcarError:
            raise
        except Exception as error:  # diffusers and safetensors raise a dozen kinds
            raise EcarError(
                f"the checkpoint {str(folder)!r} cannot be loaded ({first_sentence(error)}): "
                "fetch or train it again"
            ) from error

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """``model_index.json``, as diffusers reads it; classes that have moved since are found."""
        loaded = super().load_config(*args, **kwargs)
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        for part, place in config.items():
            if isinstance(place, list) and place[0] in MOVED:
                config[part] = [MOVED[place[0]], *place[1:]]
        return loaded

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Names and values of all weights and statistics."""
        for part, module in (("model", self.model), ("tokenizer", self.tokenizer)):
            for name, tensor in module.state_dict().items():
                yield f"{part}.{name}", tensor

    @property
    def class_names(self) -> list[str]:
        return self.model.class_names

    def trace(self, class_labels: Labels, *args, **kwargs) -> Stream:
        """The stream of :func:`ecar_lab.trace` on this pipeline's model."""
        return trace(self.model, class_labels, *args, **kwargs)

    @torch.no_grad()
    def decode(self, latent: Tensor) -> Tensor:
        """Latents of any stage -> images (B, 3, H, W) in [0, 1], float32."""
        images = self.tokenizer.decode(latent.to(self.tokenizer.dtype))
        return (images.float() / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Labels,
        num_inference_steps: int | Sequence[int] | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        generator: Generators = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[ECARPipeline, int, float, dict], dict | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **trace_options,
    ) -> ImageOutput | tuple:
        """Generates one image per class label.

        Args:
            class_labels: names or ids. num_inference_steps, guidance_scale: one value or one per
                stage; None = the checkpoint's defaults. generator: all randomness.
            output_type: ``pil``, ``np``, ``pt`` or ``latent``.
            callback_on_step_end: called as ``f(pipe, i, t, {"latents": ...})`` after every flow
                step (i counts through all stages, t is the flow time); the ``latents`` it returns
                go on to the next step, and ``pipe._interrupt = True`` stops the run.
            trace_options: further arguments of :func:`ecar_lab.trace`, e.g. ``solver``.

        Raises:
            EcarError: see :func:`ecar_lab.trace`; an unknown output type.
        """
        if output_type not in OUTPUT_TYPES:
            raise EcarError(
                f"output_type {output_type!r} is unknown: use {', '.join(OUTPUT_TYPES)}"
            )
        unknown = set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs)
        if unknown:
            raise EcarError(
                f"a callback cannot have {sorted(unknown)[0]!r}: only latents are offered"
            )
        self._interrupt = False
        steps = self.model.inference_steps(num_inference_steps)
        events = self.trace(class_labels, steps, guidance_scale, generator, **trace_options)
        with self.progress_bar(total=sum(steps)) as progress:
            event: TraceEvent | None = next(events)
            latent = event.latent
            while event is not None and not self._interrupt:
                latent, changed = event.latent, None
                if event.step and callback_on_step_end is not None:
                    index = sum(steps[: event.stage]) + event.step - 1
                    reply = callback_on_step_end(self, index, event.t, {"latents": latent})
                    changed = (reply or {}).get("latents")
                    latent = latent if changed is None else changed
                progress.update(event.step > 0)
                event = advance(events, changed)
        images = (
            latent if output_type == "latent" else self._format(self.decode(latent), output_type)
        )
        self.maybe_free_model_hooks()
        return ImageOutput(images=images) if return_dict else (images,)

    @staticmethod
    def _format(images: Tensor, output_type: str) -> Tensor | np.ndarray | list:
        if output_type == "pt":
            return images
        array = images.permute(0, 2, 3, 1).cpu().numpy()
        return array if output_type == "np" else numpy_to_pil(array)


def advance(events: Stream, changed: Tensor | None) -> TraceEvent | None:
    """The next event after the consumer has had its say; None at the end of the run."""
    try:
        return events.send(changed)
    except StopIteration:
        return None


def first_sentence(error: Exception) -> str:
    """The first line of an error's message, without its full stop."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip().rstrip(".:")[:200]
