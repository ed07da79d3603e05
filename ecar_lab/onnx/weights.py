"""The weights of several graphs in one file: each array once, in the precision that is wanted.

Graphs of the same network at several stages share nearly all their weights. ONNX lets a graph name
a place in another file, so all of them name the same places.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ecar_lab.onnx.packages import needed

Precision = Literal["float32", "float16", "int8"]
PRECISIONS = get_args(Precision)
SMALL = 1024  # bytes; what is smaller stays in the graph
ALIGNMENT = 64
MATRICES = ("MatMul", "Gemm", "Conv")  # operators whose second input is a matrix of weights


class SharedWeights:
    """A file that grows by every array that it does not hold yet."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.places: dict[bytes, tuple[int, int]] = {}

    def place(self, array: NDArray[Any]) -> tuple[int, int]:
        """Where the array's bytes lie: offset and length."""
        raw = array.tobytes()
        key = hashlib.sha256(raw).digest()
        if key not in self.places:
            self.content += bytes(-len(self.content) % ALIGNMENT)
            self.places[key] = len(self.content), len(raw)
            self.content += raw
        return self.places[key]


def share_weights(graphs: Iterable[Any], file: Path, precision: Precision) -> None:
    """Moves the weights of the graphs (``onnx.ModelProto``) into one file.

    Matrices are stored in the precision that is wanted and turned into float32 by the graph itself,
    which computes in float32 throughout. ``int8``: of each output channel the largest number is
    127; convolutions, which weigh little, become float16.
    """
    shared = SharedWeights()
    for graph in graphs:
        store(graph, shared, file.name, precision)
    file.write_bytes(shared.content)


def store(graph: Any, shared: SharedWeights, file: str, precision: Precision) -> None:
    """Moves the weights of one graph."""
    helper, numpy_helper = needed("onnx").helper, needed("onnx").numpy_helper
    matrices = {
        node.input[1]: node
        for node in graph.graph.node
        if node.op_type in MATRICES and len(node.input) > 1
    }
    kept, restoring = [], []
    for tensor in graph.graph.initializer:
        array, name = numpy_helper.to_array(tensor), tensor.name
        node = matrices.get(name)
        stored = {name: array}
        if node is not None and array.dtype == np.float32 and array.nbytes >= SMALL:
            stored, restore = lowered(name, array, node, precision, helper)
            restoring += restore
        kept += [
            external(numpy_helper.from_array(each, label), each, shared, file)
            for label, each in stored.items()
        ]
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(kept)
    rest = list(graph.graph.node)
    del graph.graph.node[:]
    graph.graph.node.extend([*restoring, *rest])


def lowered(
    name: str, array: NDArray[np.float32], node: Any, precision: Precision, helper: Any
) -> tuple[dict[str, NDArray[Any]], list[Any]]:
    """A matrix as it is stored, and the nodes that make float32 of it."""
    if precision == "float32":
        return {name: array}, []
    if precision == "float16" or node.op_type == "Conv":
        half = f"{name}.float16"
        to_float = helper.make_node("Cast", [half], [name], to=1)  # 1: float32
        return {half: array.astype(np.float16)}, [to_float]
    transposed = any(one.name == "transB" and one.i for one in node.attribute)
    axis = 0 if transposed else 1  # of the output channels
    numbers, scale = quantised(array, axis)
    names = [f"{name}.int8", f"{name}.scale"]
    to_float = helper.make_node("DequantizeLinear", names, [name], axis=axis)
    return dict(zip(names, (numbers, scale), strict=True)), [to_float]


def quantised(
    array: NDArray[np.float32], axis: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Whole numbers from -127 to 127 and one scale per channel: ``array = scale * numbers``."""
    largest = np.abs(array).max(axis=1 - axis, keepdims=True)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.rint(array / scale).astype(np.int8), scale.reshape(-1)


def external(tensor: Any, array: NDArray[Any], shared: SharedWeights, file: str) -> Any:
    """The tensor, with its numbers in the shared file if they are many."""
    if array.nbytes < SMALL:
        return tensor
    offset, length = shared.place(array)
    tensor.ClearField("raw_data")
    tensor.data_location = needed("onnx").TensorProto.EXTERNAL
    for key, value in (("location", file), ("offset", offset), ("length", length)):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
    return tensor
