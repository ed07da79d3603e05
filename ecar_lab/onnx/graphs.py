"""The networks of a checkpoint as ONNX graphs: a transformer step and a head per stage, a decoder,
and an encoder where it is asked for.

Each graph is one function of arrays, for any number of images. What PyTorch keeps in an object, the
keys and values of earlier stages, goes in and comes out.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ecar_lab.errors import EcarError, reason
from ecar_lab.model import ECAR
from ecar_lab.onnx.packages import needed
from ecar_lab.tokenizers.base import Tokenizer

OPSET = 20
ENCODER = "encoder.onnx"
BATCH = "batch"  # the name of the size that is free
TRACED_BATCH = 2  # of the arrays that a network is traced with: 1 would be taken for a constant


class GrowingCache:
    """What ``MultistageTransformer.step`` takes for its KV cache: arrays in, arrays out.

    Args:
        earlier: (B, layers, 2, heads, tokens so far, d), or None at the first stage.
    """

    def __init__(self, earlier: Tensor | None):
        self.earlier = earlier
        self.layers: list[Tensor] = []

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.stack((key, value), dim=1)
        if self.earlier is not None:
            both = torch.cat((self.earlier[:, layer], both), dim=3)
        if key.shape[2]:  # a stage with windows leaves nothing
            self.layers.append(both)
        return both[:, 0], both[:, 1]


class TransformerStep(nn.Module):
    """One stage: its token map M_s, the same as the head reads it, and the cache after it, unless
    no later stage looks at it."""

    def __init__(self, model: ECAR, stage: int):
        super().__init__()
        self.model, self.stage = model, stage
        tokens = model.transformer.tokens_per_stage
        # Stages with windows are the last ones; what is cached is the others.
        self.leaves_cache = sum(tokens[: stage + 1]) <= model.transformer.shared_tokens
        self.leaves_cache &= stage + 1 < len(tokens)
        self.outputs = ["token_map", "read_map", *(["new_cache"] * self.leaves_cache)]

    def forward(
        self, class_labels: Tensor, previous_end: Tensor | None = None, cache: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        growing: Any = GrowingCache(cache)
        token_map, _ = self.model.transformer.step(self.stage, previous_end, class_labels, growing)
        made = (token_map, self.model.head.read(token_map))
        return (*made, torch.stack(growing.layers, dim=1)) if self.leaves_cache else made

    def example(self) -> dict[str, Tensor]:
        transformer, config = self.model.transformer, self.model.config
        inputs = {"class_labels": torch.zeros(TRACED_BATCH, dtype=torch.long)}
        if self.stage and transformer.history == "end_states":
            side = self.model.sides[self.stage - 1]
            inputs["previous_end"] = torch.randn(TRACED_BATCH, config.latent_channels, side, side)
        earlier = sum(transformer.tokens_per_stage[: self.stage])
        earlier = min(earlier, transformer.shared_tokens)
        if earlier:
            layers, heads = len(transformer.blocks), config.num_heads
            inputs["cache"] = torch.randn(
                TRACED_BATCH, layers, 2, heads, earlier, transformer.head_dim
            )
        return inputs


class HeadStep(nn.Module):
    """The head at one time of a stage: the velocity, or what a few-step head says of a span."""

    outputs = ("velocity",)

    def __init__(self, model: ECAR, stage: int):
        super().__init__()
        self.model, self.stage = model, stage

    def forward(
        self,
        state: Tensor,
        read_map: Tensor,
        class_labels: Tensor,
        local_time: Tensor,
        span: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        head = self.model.head
        asked = () if span is None else (span, guidance)
        modulations = head.modulations(self.stage, local_time, class_labels, *asked)
        return head(self.stage, state, read_map, modulations)

    def example(self) -> dict[str, Tensor]:
        config, side = self.model.config, self.model.sides[self.stage]
        tokens = self.model.transformer.tokens_per_stage[self.stage]
        inputs = {
            "state": torch.randn(TRACED_BATCH, config.latent_channels, side, side),
            "read_map": torch.randn(TRACED_BATCH, tokens, config.width),
            "class_labels": torch.zeros(TRACED_BATCH, dtype=torch.long),
            "local_time": torch.zeros(1),
        }
        if self.model.few_step:
            inputs |= {"span": torch.ones(1), "guidance": torch.ones(1)}
        return inputs


class Decoder(nn.Module):
    """Latents of any size to images in [-1, 1]."""

    outputs = ("images",)

    def __init__(self, tokenizer: Tokenizer):
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, latent: Tensor) -> Tensor:
        return self.tokenizer.decode_unchecked(latent).clamp(-1, 1)

    def example(self) -> dict[str, Tensor]:
        return {"latent": torch.randn(TRACED_BATCH, self.tokenizer.latent_channels, 5, 6)}


class Encoder(nn.Module):
    """Images in [-1, 1], of the size that the model makes, to latents."""

    outputs = ("latent",)

    def __init__(self, tokenizer: Tokenizer, image_size: int):
        super().__init__()
        self.tokenizer, self.image_size = tokenizer, image_size

    def forward(self, images: Tensor) -> Tensor:
        return self.tokenizer.encode_unchecked(images)

    def example(self) -> dict[str, Tensor]:
        size = self.image_size
        images = torch.rand(TRACED_BATCH, self.tokenizer.image_channels, size, size)
        return {"images": 2 * images - 1}


@dataclass(frozen=True)
class Traced:
    """A graph (an ``onnx.ModelProto``), and the arrays that it takes and gives: name -> type and
    shape, in which a name stands for a size that is free."""

    proto: Any
    inputs: dict[str, Any]
    outputs: dict[str, Any]


def trace_graphs(model: ECAR, tokenizer: Tokenizer, encoder: bool = False) -> dict[str, Traced]:
    """All graphs of a checkpoint by the names of their files, in float32.

    Args:
        encoder: whether the tokenizer's encoder is one of them.

    Raises:
        EcarError: a network that ONNX has no words for; a package is missing.
    """
    needed("onnx")
    needed("onnxscript")
    model, tokenizer = (copy.deepcopy(part).float().cpu().eval() for part in (model, tokenizer))
    parts: dict[str, Any] = {"decoder.onnx": Decoder(tokenizer)}
    for stage in range(model.schedule.num_stages):
        parts[f"transformer_{stage}.onnx"] = TransformerStep(model, stage)
        parts[f"head_{stage}.onnx"] = HeadStep(model, stage)
    if encoder:
        image_size = model.config.latent_size * tokenizer.downsample_factor
        parts[ENCODER] = Encoder(tokenizer, image_size)
    bar = tqdm(sorted(parts.items()), desc="tracing", unit="graph", disable=None)
    return {name: trace_graph(name, part.eval()) for name, part in bar}


@torch.no_grad()
def trace_graph(name: str, part: Any) -> Traced:
    """One network, traced with its example."""
    example: dict[str, Tensor] = part.example()
    # Tables are made once and kept: were they made while tracing, shapes without numbers would be.
    part(**example)
    try:
        with silence():
            program = torch.onnx.export(
                part,
                kwargs=example,
                dynamo=True,
                dynamic_shapes=free_sizes(example),
                input_names=list(example),
                output_names=list(part.outputs),
                opset_version=OPSET,
                optimize=False,
                verbose=False,
            )
            assert program is not None
            fold(program.model)
    except Exception as error:  # the exporter raises a dozen kinds
        raise EcarError(
            f"{name} cannot be written as ONNX ({reason(error)}): use --runtime torch"
        ) from error
    proto = bare(program.model_proto)
    return Traced(proto, arrays(proto.graph.input), arrays(proto.graph.output))


def fold(model: Any) -> None:
    """Computes beforehand what needs no input, the transposed matrices above all. Whoever runs the
    graph optimises it further; the exporter's own passes would take longer than all the rest."""
    optimizer = needed("onnxscript").optimizer
    optimizer.fold_constants(model, should_fold=lambda node: node.op_type == "Transpose" or None)
    optimizer.remove_unused_nodes(model)


def free_sizes(example: Mapping[str, Tensor]) -> dict[str, Any]:
    """Which sizes may differ from the example's: the number of images, and a latent's sides."""
    batch = torch.export.Dim(BATCH, min=1)
    sizes: dict[str, Any] = {
        name: {0: batch} if array.shape[0] == TRACED_BATCH else {}
        for name, array in example.items()
    }
    if "latent" in example:
        for axis, side in ((2, "height"), (3, "width")):
            sizes["latent"][axis] = torch.export.Dim(side, min=1)
    return sizes


def bare(proto: Any) -> Any:
    """The graph without notes on the Python code that it was traced from."""
    for message in (proto, proto.graph, *proto.graph.node, *proto.graph.input, *proto.functions):
        for notes in ("metadata_props", "doc_string"):
            message.ClearField(notes)
    for values in (proto.graph.output, proto.graph.value_info, proto.graph.initializer):
        for value in values:
            value.ClearField("metadata_props")
            value.ClearField("doc_string")
    del proto.graph.value_info[:]
    return proto


def arrays(values: Any) -> dict[str, Any]:
    """Types and shapes of a graph's inputs or outputs."""
    types = needed("onnx").TensorProto.DataType
    return {
        value.name: {
            "type": {"FLOAT": "float32"}.get(
                name := types.Name(value.type.tensor_type.elem_type), name.lower()
            ),
            "shape": [
                size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim
            ],
        }
        for value in values
    }


@contextlib.contextmanager
def silence() -> Generator[None]:
    """The exporter speaks of packages that nobody asked for and of its own future."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
