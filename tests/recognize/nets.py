"""Small generated networks, and running them in onnxruntime as they stand and as rewritten."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from bnn_tvm.frontend import Prepared, prepare
from bnn_tvm.options import CompileOptions
from bnn_tvm.recognize import Decision, Recognition, expand, recognize


class Net:
    """Builds a model node by node; every method returns the name of its result."""

    def __init__(self, shape: Sequence[int], seed: int = 0, opset: int = 17) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.shape = tuple(shape)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.input_type = TensorProto.FLOAT

    def __repr__(self) -> str:
        """The nodes, with the values of scalar constants."""
        shown = {
            t.name: f"{numpy_helper.to_array(t).item():g}"
            for t in self.initializers
            if int(np.prod(t.dims)) == 1
        }
        return "; ".join(
            f"{n.output[0]}={n.op_type}({', '.join(shown.get(i, i) for i in n.input)})"
            for n in self.nodes
        )

    def const(self, value: object, dtype: type = np.float32, name: str | None = None) -> str:
        name = name or f"const{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def op(self, kind: str, *inputs: str, name: str | None = None, **attributes: object) -> str:
        name = name or f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def signs(self, *shape: int) -> np.ndarray:
        """Random +-1 with both signs in it."""
        values = self.rng.choice([-1.0, 1.0], shape).astype(np.float32)
        values.flat[0], values.flat[-1] = -1, 1
        return values

    def conv(
        self,
        x: str,
        weights: np.ndarray,
        *,
        sign: bool = False,
        bias: object = None,
        **attr: object,
    ) -> str:
        """A Conv with these weights; with `sign`, of latent weights through a Sign node."""
        if sign:
            latent = weights * self.rng.uniform(0.1, 1.0, weights.shape)
            w = self.op("Sign", self.const(latent))
        else:
            w = self.const(weights)
        extra = [self.const(bias)] if bias is not None else []
        return self.op("Conv", x, w, *extra, **attr)

    def pad(self, x: str, width: int | Sequence[int], value: float | None, dims: int = 2) -> str:
        """A constant Pad of the spatial axes."""
        widths = [width] * (2 * dims) if isinstance(width, int) else list(width)
        pads = self.const([0, 0, *widths[:dims], 0, 0, *widths[dims:]], np.int64)
        return self.op("Pad", x, pads, *([] if value is None else [self.const(value)]))

    def bn(self, x: str, channels: int) -> str:
        """A BatchNormalization whose scales have both signs."""
        rng = self.rng
        parts = [
            rng.normal(size=channels),
            rng.normal(size=channels),
            rng.normal(size=channels),
            rng.uniform(0.3, 2, channels),
        ]
        return self.op("BatchNormalization", x, *[self.const(p) for p in parts])

    def model(self, *outputs: str) -> onnx.ModelProto:
        info = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "net",
            [info("x", self.input_type, self.shape)],
            [info(o, TensorProto.FLOAT, None) for o in outputs or [self.nodes[-1].output[0]]],
            self.initializers,
        )
        imports = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=imports, ir_version=8)


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def find(net: Net | onnx.ModelProto, *outputs: str, **options: object) -> Recognition:
    """Recognise a network."""
    model = net.model(*outputs) if isinstance(net, Net) else net
    return recognize(prepare(model), CompileOptions(**options))  # type: ignore[arg-type]


def only(net: Net | onnx.ModelProto, *outputs: str, **options: object) -> Decision:
    """The decision about the network's one layer."""
    (decision,) = find(net, *outputs, **options).decisions
    return decision


def operators(model: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in model.graph.node]


def samples(model: onnx.ModelProto, rng: np.random.Generator, zeros: bool = True) -> np.ndarray:
    """Random input; with `zeros`, exact zeros, -0.0 and small integers are among its elements."""
    (info,) = model.graph.input
    shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
    x = (rng.normal(size=shape) * 1.5).astype(np.float32)
    if not zeros:
        return x
    kind = rng.integers(0, 8, size=shape)
    x = np.where(kind == 0, np.round(x), x).astype(np.float32)
    return np.where(kind == 1, np.float32(-0.0), x)


def assert_exact(
    prepared: Prepared, found: Recognition, x: np.ndarray, tolerance: float = 2e-6
) -> None:
    """The expanded rewritten model equals the original on x, up to float rounding."""
    name = prepared.model.graph.input[0].name
    wanted = session(prepared.model).run(None, {name: x})
    expanded = expand(found.model)
    onnx.checker.check_model(expanded)
    got = session(expanded).run(None, {name: x})
    for a, b in zip(wanted, got, strict=True):
        assert a.shape == b.shape
        scale = max(1.0, float(np.abs(a).max()))
        np.testing.assert_allclose(b, a, rtol=0, atol=tolerance * scale)


def check(
    net: Net, *outputs: str, repeat: int = 3, zeros: bool = True, **options: object
) -> Recognition:
    """Recognise, and prove on random inputs that the rewritten model is exact."""
    prepared = prepare(net.model(*outputs))
    found = recognize(prepared, CompileOptions(**options))  # type: ignore[arg-type]
    for _ in range(repeat):
        assert_exact(prepared, found, samples(prepared.model, net.rng, zeros))
    return found
