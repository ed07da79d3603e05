"""The generator in the words of diffusers: :class:`ECARPipeline`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers.utils import BaseOutput
from diffusers.utils.pil_utils import numpy_to_pil
from torch import Tensor

from ecar_lab.arguments import check_keywords, plain, whole_number
from ecar_lab.bounds import check_images
from ecar_lab.calls import ELSEWHERE, Call, calls_of, interrupt, replied
from ecar_lab.device import told_when_memory_is_full
from ecar_lab.errors import EcarError
from ecar_lab.events import TraceEvent
from ecar_lab.generator import LatentGenerator
from ecar_lab.interventions import Generators, Labels, as_noise
from ecar_lab.model import ECAR
from ecar_lab.schema import short
from ecar_lab.stored import bring
from ecar_lab.stored_pipeline import TOKENIZER_HASH, StoredPipeline
from ecar_lab.tokenizers.base import Tokenizer
from ecar_lab.trace import Stream, trace

OUTPUT_TYPES = ("pil", "np", "pt", "latent")

FEWER = "ask for fewer images at a time, or move the pipeline to another device with to()"


@dataclass
class ImageOutput(BaseOutput):
    """``images``: a list of PIL images (``pil``), an array (B, H, W, 3) in [0, 1] (``np``), a
    tensor (B, 3, H, W) in [0, 1] (``pt``), or the latent (B, C, R, R) (``latent``)."""

    images: Any


class ECARPipeline(StoredPipeline):
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

    def __init__(self, model: ECAR, tokenizer: Tokenizer, check_tokenizer: bool = True):
        super().__init__()
        # torch.compile wraps a module.
        if not isinstance(getattr(model, "_orig_mod", model), self.makes):
            kind, network = type(model).__name__, isinstance(model, LatentGenerator)
            raise EcarError(
                f"this checkpoint holds a {kind}, which {type(self).__name__} does not run: "
                "use ecar_lab.baselines.load_pipeline"
                if network
                else f"the model is {kind}: give {type(self).__name__}(model=..., tokenizer=...)"
            )
        if not isinstance(getattr(tokenizer, "_orig_mod", tokenizer), Tokenizer):
            raise EcarError(
                f"the tokenizer is {type(tokenizer).__name__}: use ecar_lab.load_tokenizer, "
                "which takes autoencoders of diffusers, too"
            )
        side, channels = model.config.latent_size, model.config.latent_channels
        if tokenizer.latent_channels != channels:
            raise EcarError(
                f"the tokenizer has {tokenizer.latent_channels} latent channels, "
                f"the model {channels}: "
                "use the tokenizer that the model was trained with"
            )
        expected = model.config.get(TOKENIZER_HASH)
        if check_tokenizer and expected not in (None, tokenizer.content_hash()):
            raise EcarError(
                "this is not the tokenizer that the model was saved with "
                f"(hash {expected[:12]}): use the tokenizer/ beside the model, or pass "
                "check_tokenizer=False if you mean it"
            )
        self.register_modules(model=model, tokenizer=tokenizer)
        self.image_size = side * tokenizer.downsample_factor

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Names and values of all weights and statistics."""
        for part, module in (("model", self.model), ("tokenizer", self.tokenizer)):
            for name, tensor in module.state_dict().items():
                yield f"{part}.{name}", tensor

    @property
    def class_names(self) -> list[str]:
        return self.model.class_names

    @property
    def tracer(self) -> Callable[..., Stream]:
        """What makes the stream of events, as a function of the class labels."""
        return partial(trace, self.model)

    def trace(self, class_labels: Labels, *args: Any, **kwargs: Any) -> Stream:
        """The stream of :func:`ecar_lab.trace` on this pipeline's model.

        Raises:
            EcarError: a keyword that it does not have; see there.
        """
        known = signature(self.tracer).parameters
        check_keywords(kwargs, known, ELSEWHERE, type(self.model).__name__)
        bring(self.model)
        return self.tracer(class_labels, *args, **kwargs)

    @told_when_memory_is_full(FEWER)
    @torch.no_grad()
    def decode(self, latent: Tensor) -> Tensor:
        """Latents of any stage -> images (B, 3, H, W) in [0, 1], float32."""
        images = self.tokenizer.decode(latent.to(self.tokenizer.dtype))
        return (images.float() / 2 + 0.5).clamp(0, 1)

    @property
    def _interrupt(self) -> bool:
        return any(call.interrupted for call in calls_of(self))

    @_interrupt.setter
    def _interrupt(self, value: bool) -> None:
        interrupt(self, value)

    @told_when_memory_is_full(FEWER)
    @torch.no_grad()
    def __call__(
        self,
        class_labels: Labels | None = None,
        num_inference_steps: int | Sequence[int] | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        generator: Generators = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[ECARPipeline, int, float, dict], dict | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] | None = ("latents",),
        *,
        num_images_per_prompt: int = 1,
        latents: Tensor | None = None,
        **options: Any,
    ) -> ImageOutput | tuple:
        """Generates one image per class label.

        Args:
            class_labels: names or ids. num_inference_steps, guidance_scale: one value or one per
                stage; None = the checkpoint's defaults. generator: all randomness.
            output_type: ``pil``, ``np``, ``pt`` or ``latent``.
            callback_on_step_end: called as ``f(pipe, i, t, {"latents": ...})`` after every flow
                step (i counts through all stages, t is the flow time); the ``latents`` it returns
                go on to the next step, and ``pipe._interrupt = True`` stops this run, and no other.
            num_images_per_prompt: images per label, beside one another; a list of generators has
                one for each image.
            latents: the white noise that the first stage starts from, (B, C, r_0, r_0); what later
                stages add is drawn from the generator, or given as ``noise``.
            options: further arguments of :func:`ecar_lab.trace`, e.g. ``solver``, ``time_power``,
                ``guidance_interval``. ``height`` and ``width`` may be given if they are the
                model's.

        Raises:
            EcarError: see :func:`ecar_lab.trace`; an unknown keyword or output type; a callback
                that returns something else.
        """
        kind = self._output_type(output_type)
        inputs = self._callback_inputs(callback_on_step_end, callback_on_step_end_tensor_inputs)
        options = self._trace_options(options, latents)
        if class_labels is None:
            raise EcarError("no class was given: name at least one, class_labels=['...']")
        labels = self._repeated(class_labels, num_images_per_prompt)
        steps = self.model.inference_steps(num_inference_steps)
        events = self.trace(labels, steps, guidance_scale, generator, **options)
        call = Call(self)
        with call.running(), self.progress_bar(total=sum(steps)) as progress:
            event: TraceEvent | None = next(events)
            latent = event.latent
            while event is not None and not call.interrupted:
                latent, changed = event.latent, None
                if event.step and callback_on_step_end is not None:
                    index = sum(steps[: event.stage]) + event.step - 1
                    offered = latent.clone()  # so that a change in place is one, too
                    reply = callback_on_step_end(
                        self, index, event.t, dict.fromkeys(inputs, offered)
                    )
                    changed = replied(reply, offered, latent)
                    latent = latent if changed is None else changed
                progress.update(event.step > 0)
                event = advance(events, changed)
        images = latent if kind == "latent" else self._format(self.decode(latent), kind)
        self.maybe_free_model_hooks()
        return ImageOutput(images=images) if return_dict else (images,)

    @staticmethod
    def _output_type(output_type: str) -> str:
        kind = output_type.lower() if isinstance(output_type, str) else ""
        if kind not in OUTPUT_TYPES:
            raise EcarError(
                f"output_type {short(output_type)} is unknown: use {', '.join(OUTPUT_TYPES)}"
            )
        return kind

    def _callback_inputs(self, callback: Any, names: Sequence[str] | str | None) -> list[str]:
        """The names of what a callback is offered."""
        if callback is not None and not callable(callback):
            raise EcarError(f"callback_on_step_end is {short(callback)}: give a function")
        names = self._callback_tensor_inputs if names is None else names
        wanted = (
            [names]
            if isinstance(names, str)
            else list(names)
            if isinstance(names, Sequence)
            else [names]
        )
        for name in wanted:
            if not isinstance(name, str) or name not in self._callback_tensor_inputs:
                raise EcarError(f"a callback cannot have {short(name)}: only latents are offered")
        return wanted

    def _trace_options(self, options: dict[str, Any], latents: Tensor | None) -> dict[str, Any]:
        """The options as ``trace`` has them: sizes checked, the latents as noise."""
        options = {k: v for k, v in options.items() if v is not None or k not in ELSEWHERE}
        for name in options.keys() & {"height", "width"}:
            if whole_number(options.pop(name)) != self.image_size:
                raise EcarError(
                    f"{name}: this model makes images of {self.image_size} px and no others, leave "
                    "it out"
                )
        known = {**signature(self.tracer).parameters, **signature(self.__call__).parameters}
        known.pop("options")
        check_keywords(options, known, ELSEWHERE, type(self).__name__)
        if latents is None:
            return options
        if "noise" not in known:
            raise EcarError(f"{type(self.model).__name__} takes no latents: give a generator")
        noise = as_noise(options.get("noise"))
        if 0 in noise:
            raise EcarError("latents and noise of stage 0 are the same: give one of them")
        return {**options, "noise": {0: latents, **noise}}

    def _repeated(self, class_labels: Labels, count: Any) -> Labels:
        number = whole_number(plain(count))
        if number is None or number < 1:
            raise EcarError(f"num_images_per_prompt {short(count)}: use a whole number from 1 on")
        if number == 1:
            return class_labels
        ids = self.model.class_ids(class_labels)
        check_images(self.model.config, len(ids) * number, self.model.device.type)
        return ids.repeat_interleave(number)

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
