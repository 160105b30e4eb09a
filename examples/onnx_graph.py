"""ONNX graphs in NumPy, with norms by normzoo: every normalization node is an `nz.Norm` that `nz.from_onnx` built.

Only what two small networks need of the other operators is here: float arithmetic, shapes, convolution, pooling. A step
of a graph may be replaced; what nothing reads any more is not run.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from scipy.special import expit, softmax

import normzoo as nz

NORMS = ("BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization")


@dataclass
class Step:
    """One output of a graph, and how it follows from its inputs: run(*inputs)."""

    kind: str
    inputs: list[str]
    output: str
    run: Callable[..., np.ndarray]
    options: dict[str, Any] = field(default_factory=dict)
    norm: nz.Norm | None = None


class Graph:
    """An ONNX model.

    Attributes:
        constants: the initializers and constants by name; steps read them when they run.
        steps: by the name of their output, in an order in which they can run.
    """

    def __init__(self, path: Path) -> None:
        model = onnx.load(path)
        self.constants = {a.name: onnx.numpy_helper.to_array(a) for a in model.graph.initializer}
        self.output = model.graph.output[0].name
        self.steps: dict[str, Step] = {}
        opset = next(o.version for o in model.opset_import if o.domain == "")
        for node in model.graph.node:
            options = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Constant":
                self.constants[node.output[0]] = onnx.numpy_helper.to_array(options["value"])
                continue
            step = Step(node.op_type, list(node.input), node.output[0], unknown(node.op_type), options)
            if node.op_type in NORMS:
                step.run = step.norm = nz.from_onnx(node, self.constants, opset=opset)
                step.inputs = step.inputs[:1]
            elif node.op_type in OPERATORS:
                step.run = lambda *a, f=OPERATORS[node.op_type], o=options: f(o, *a)
            self.steps[step.output] = step

    def needed(self) -> list[Step]:
        """The steps that lead to the output, in order."""
        wanted = {self.output}
        for name in reversed(self.steps):
            if name in wanted:
                wanted.update(self.steps[name].inputs)
        return [step for name, step in self.steps.items() if name in wanted]

    def __call__(self, **inputs: np.ndarray) -> np.ndarray:
        values = {**self.constants, **inputs, "": None}
        for step in self.needed():
            values[step.output] = step.run(*(values[name] for name in step.inputs))
        return values[self.output]

    def find(self, name: str, *kinds: str) -> Step | None:
        """The step of the last kind, behind the output `name` of one of the first kind and so on by first inputs."""
        step = None
        for kind in kinds:
            step = self.steps.get(name)
            if step is None or step.kind != kind:
                return None
            name = step.inputs[0]
        return step


def unknown(kind: str) -> Callable[..., np.ndarray]:
    def run(*inputs):
        raise NotImplementedError(f"{kind} is not one of the operators of onnx_graph.py")

    return run


def conv2d(x, weight, bias=None, strides=(1, 1), pads=(0, 0, 0, 0), groups=1):
    """x (N, C, H, W), weight (O, C / groups, h, w) -> (N, O, H', W'): a matrix product for each of h x w positions."""
    if any(pads):
        x = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    n, outputs = len(x), len(weight)
    height, width = ((size - k) // s + 1 for size, k, s in zip(x.shape[2:], weight.shape[2:], strides, strict=True))
    y = np.zeros((n, groups, outputs // groups, height * width), x.dtype)
    w = weight.reshape(groups, outputs // groups, *weight.shape[1:])
    for i in range(weight.shape[2]):
        for j in range(weight.shape[3]):
            rows, columns = (
                slice(k, k + s * (size - 1) + 1, s) for k, s, size in zip((i, j), strides, (height, width), strict=True)
            )
            patch = x[:, :, rows, columns].reshape(n, groups, -1, height * width)
            # Depthwise: numbers times rows.
            y += w[..., i, j] * patch if patch.shape[2] == 1 == w.shape[1] else w[..., i, j] @ patch
    y = y.reshape(n, outputs, height, width)
    return y if bias is None else y + bias[:, None, None]


def _conv(o, x, weight, bias=None):
    return conv2d(x, weight, bias, o["strides"], o["pads"], o["group"])


def _max_pool(o, x):
    (h, w), (n, c, height, width) = o["kernel_shape"], x.shape  # strides as large, no padding
    return x[:, :, : height // h * h, : width // w * w].reshape(n, c, height // h, h, width // w, w).max((3, 5))


def _pad(o, x, pads):
    return np.pad(x, list(zip(pads[: x.ndim], pads[x.ndim :], strict=True)), mode=o["mode"].decode())


def _resize(o, x, roi, scales):
    for axis, scale in enumerate(scales):  # nearest, asymmetric, floor
        x = x.repeat(int(scale), axis) if scale != 1 else x
    return x


def _slice(o, x, starts, ends, axes, steps):
    slices = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        slices[axis] = slice(int(start), None if end < -x.shape[axis] else int(end), int(step))
    return x[tuple(slices)]


def _reshape(o, x, shape):
    return x.reshape([x.shape[i] if size == 0 else int(size) for i, size in enumerate(shape)])


OPERATORS: dict[str, Callable[..., np.ndarray]] = {
    "Add": lambda o, a, b: a + b,
    "Mul": lambda o, a, b: a * b,
    "Div": lambda o, a, b: a / b,
    "Clip": lambda o, x, low, high: np.clip(x, low, high),
    "Relu": lambda o, x: np.maximum(x, 0),
    "Sigmoid": lambda o, x: expit(x),
    "HardSigmoid": lambda o, x: np.clip(np.float32(o["alpha"]) * x + np.float32(o["beta"]), 0, 1),
    "Softmax": lambda o, x: softmax(x, o["axis"]),
    "MatMul": lambda o, a, b: a @ b,
    "Identity": lambda o, x: x,
    "Conv": _conv,
    "MaxPool": _max_pool,
    "GlobalAveragePool": lambda o, x: x.mean((2, 3), keepdims=True),
    "Pad": _pad,
    "Resize": _resize,
    "Slice": _slice,
    "Reshape": _reshape,
    "Transpose": lambda o, x: x.transpose(o["perm"]),
    "Concat": lambda o, *a: np.concatenate(a, o["axis"]),
    "Shape": lambda o, x: np.array(x.shape),
    "Cast": lambda o, x: x.astype(onnx.helper.tensor_dtype_to_np_dtype(o["to"])),
    "ConstantOfShape": lambda o, shape: np.full(shape, onnx.numpy_helper.to_array(o["value"])[0]),
}
