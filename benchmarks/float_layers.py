"""The float layers of Bi-Real-Net-18 and QuickNet at 224x224 against onnxruntime fp32, one thread.

    python -m benchmarks.float_layers [--only SUBSTRING] [--rounds N] [--json]

Every layer is one function with the batch norm or bias and the ReLU that follow it fused in; a
padding in front of a convolution is a function of its own and counted with the layer, as is the
transpose of the networks' NCHW input. onnxruntime gets the same layer in NCHW, and the better of
its two highest optimisation levels (the highest reorders data to blocks of channels and back)
counts. In each round everything runs in turn, so that a change of clock or load meets all; the
fastest run counts. The time of an empty graph in the same run is taken off onnxruntime's.
`% of peak` is relative to a loop of nothing but multiply-adds, measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import te, tirx, topi
from tvm.s_tir import Schedule
from tvm.target import Target
from tvm_ffi import structural_map

from topi_ext import conv2d, pool
from topi_ext.isa import isa_of
from topi_ext.kernels import select
from topi_ext.params import ConvParams
from topi_ext.schedule import schedule_primfunc
from topi_ext.softmax import softmax_last_axis

SAME = (0, 0, 1, 1)  # pads of a 3x3 stride 2 layer as TensorFlow places them


@dataclass(frozen=True)
class Layer:
    """One row. kind: conv2d, depthwise, dense, maxpool, avgpool, softmax, affine.

    from_nchw: the layer reads the network's NCHW input.
    """

    name: str
    kind: str
    params: ConvParams
    relu: bool = False
    from_nchw: bool = False


def _conv(name: str, size: int, ci: int, co: int, k: int = 1, **more: Any) -> Layer:
    relu, nchw = more.pop("relu", False), more.pop("from_nchw", False)
    params = ConvParams(1, size, size, ci, co, k, k, **more)
    kind = "depthwise" if params.groups > 1 else "conv2d"
    return Layer(name, kind, params, relu, nchw)


def _pool(kind: str, name: str, size: int, c: int, k: int, s: int, pads: Any = (0,) * 4) -> Layer:
    return Layer(name, kind, ConvParams(1, size, size, c, c, k, k, (s, s), pads=pads, groups=c))


LAYERS = [
    _conv("bireal18 stem 7x7", 224, 3, 64, 7, stride=(2, 2), pads=(2, 2, 3, 3), from_nchw=True),
    _pool("maxpool", "bireal18 maxpool 3x3", 112, 64, 3, 2, SAME),
    _pool("avgpool", "bireal18 avgpool 56", 56, 64, 2, 2),
    _conv("bireal18 1x1 28", 28, 64, 128),
    _conv("bireal18 1x1 14", 14, 128, 256),
    _conv("bireal18 1x1 7", 7, 256, 512),
    _conv("quicknet stem 3x3", 224, 3, 16, 3, stride=(2, 2), pads=SAME, relu=True, from_nchw=True),
    _conv("quicknet depthwise 112", 112, 16, 16, 3, stride=(2, 2), pads=SAME, groups=16),
    _conv("quicknet 1x1 56", 56, 16, 64),
    _pool("maxpool", "quicknet maxpool 56", 56, 64, 2, 1),
    _conv("quicknet depthwise 55", 55, 64, 64, 3, stride=(2, 2), pads=(1,) * 4, groups=64),
    _conv("quicknet depthwise 27", 27, 128, 128, 3, stride=(2, 2), pads=(1,) * 4, groups=128),
    _conv("quicknet depthwise 13", 13, 256, 256, 3, stride=(2, 2), pads=(1,) * 4, groups=256),
    _pool("avgpool", "global avgpool 7", 7, 512, 7, 7),
    Layer("dense 512 1000", "dense", ConvParams.dense(1, 512, 1000)),
    Layer("softmax 1000", "softmax", ConvParams.dense(1, 1, 1000)),
    # Float 3x3 layers of the full-precision ResNet-18, for comparison.
    _conv("3x3 56", 56, 64, 64, 3, pads=(1,) * 4, relu=True),
    _conv("3x3 28", 28, 128, 128, 3, pads=(1,) * 4, relu=True),
    _conv("3x3 14", 14, 256, 256, 3, pads=(1,) * 4, relu=True),
    _conv("3x3 7", 7, 512, 512, 3, pads=(1,) * 4, relu=True),
]
MAC_KINDS = ("conv2d", "depthwise", "dense")


@dataclass
class Row:
    """Result of one layer; milliseconds of the fastest run."""

    layer: str
    case: str
    kernel: str
    macs: int
    pad_ms: float
    ms: float
    direct_ms: float  # by the kernel that adds up plain products; the same where that was chosen
    onnxruntime_ms: float
    speedup: float
    gmacs_per_s: float
    share_of_peak: float
    max_abs_error: float
    compile_s: float


def host_target(mcpu: str | None = None) -> Target:
    """This machine or a core whose code it runs, one thread."""
    llvm = tvm.target.codegen
    cpu, triple = mcpu or llvm.llvm_get_system_cpu(), llvm.llvm_get_system_triple()
    return Target({"kind": "llvm", "mtriple": triple, "mcpu": cpu, "num-cores": 1})


def _function(tensors: list[te.Tensor]) -> tirx.PrimFunc:
    # Relax gives its functions 64-bit indices; what is measured should be what is compiled.
    return te.create_prim_func(tensors, index_dtype_override="int64")


def _serial(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """The function without threads: TVM's own pool takes microseconds to start nobody, where the
    runtime of a compiled model calls a loop's body."""

    def plain(node: tirx.For) -> tirx.For:
        if node.kind != tirx.ForKind.PARALLEL:
            return node
        return tirx.For(
            node.loop_var,
            node.min,
            node.extent,
            tirx.ForKind.SERIAL,
            node.body,
            annotations=node.annotations,
        )

    body = structural_map(function.body, (tirx.For, plain))
    return tirx.PrimFunc(function.params, body, function.ret_type, function.attrs)


class Ours:
    """The layer compiled by topi_ext: a padding function where needed, and the layer's."""

    def __init__(
        self,
        layer: Layer,
        target: Target,
        x: np.ndarray,
        weights: dict[str, Any],
        direct: bool = False,
    ):
        p, start = layer.params, time.perf_counter()
        nhwc = x.transpose(0, 2, 3, 1) if x.ndim == 4 else x
        given = np.ascontiguousarray(x if layer.from_nchw else nhwc)
        functions, self.steps = {}, []
        self.kernel = "default"
        if layer.kind == "conv2d" and (conv2d.needs_pad(p) or layer.from_nchw):
            source = te.placeholder(given.shape, "float32", "data")
            moved = topi.transpose(source, [0, 2, 3, 1]) if layer.from_nchw else source
            functions["pad"] = _function([source, conv2d.pad_nhwc(moved, p)])
            padded = np.zeros((p.n, p.hp, p.wp, p.ci), np.float32)
            self.steps.append(("pad", [given, padded]))
            given = padded
        operands = [given]
        if layer.kind in MAC_KINDS:
            kernel = select(layer.kind, p, target, direct=direct)
            self.kernel = kernel.name
            operands += [*kernel.pack_weights(weights["w"], p), weights["scale"], weights["offset"]]
        places = [te.placeholder(a.shape, "float32", f"in{i}") for i, a in enumerate(operands)]
        out = self._compute(layer, places, kernel if layer.kind in MAC_KINDS else None)
        functions["layer"] = _function([*places, out])
        self.result = np.zeros([int(e) for e in out.shape], np.float32)
        self.steps.append(("layer", [*operands, self.result]))
        module = tvm.IRModule(
            {
                name: _serial(schedule_primfunc(f, target)).with_attr("global_symbol", name)
                for name, f in functions.items()
            }
        )
        library = tvm.compile(module, target=target).jit()
        self.compile_s = time.perf_counter() - start
        self.calls = []
        tensors: dict[int, Any] = {}
        for name, arrays in self.steps:
            for array in arrays:
                tensors.setdefault(id(array), tvm.runtime.tensor(array))
            args = [tensors[id(array)] for array in arrays]
            self.calls.append((name, library.time_evaluator(name, tvm.cpu(), number=1), args))
        self.output = tensors[id(self.result)]

    @staticmethod
    def _compute(layer: Layer, places: list[te.Tensor], kernel: Any) -> te.Tensor:
        p = layer.params
        if kernel is not None:
            acc = kernel.compute(*places[:-2], params=p)
            out = topi.add(topi.multiply(acc, places[-2]), places[-1])
            return topi.nn.relu(out) if layer.relu else out
        window = ((p.kh, p.kw), p.stride, p.pads)
        if layer.kind == "maxpool":
            return pool.max_pool2d_nhwc(places[0], *window)
        if layer.kind == "avgpool":
            return pool.avg_pool2d_nhwc(places[0], *window)
        return softmax_last_axis(places[0])

    def run(self, repeat: int) -> dict[str, float]:
        """Fastest seconds of each function."""
        return {
            name: min(min(evaluate(*args).results) for _ in range(repeat))
            for name, evaluate, args in self.calls
        }


def onnx_layer(layer: Layer, weights: dict[str, Any], shape: tuple[int, ...]) -> onnx.ModelProto:
    """The same layer as an ONNX model, scale folded into the weights."""
    p, nodes, constants = layer.params, [], {}
    top, left, bottom, right = p.pads
    window: dict[str, Any] = {
        "kernel_shape": [p.kh, p.kw],
        "strides": p.stride,
        "pads": [top, left, bottom, right],
    }
    if layer.kind in ("conv2d", "depthwise"):
        constants = {"w": weights["w"] * weights["scale"].reshape(-1, 1, 1, 1)}
        constants["b"] = weights["offset"]
        nodes.append(helper.make_node("Conv", ["x", "w", "b"], ["y"], group=p.groups, **window))
    elif layer.kind == "dense":
        constants = {"w": weights["w"][:, :, 0, 0] * weights["scale"][:, None]}
        constants["b"] = weights["offset"]
        nodes.append(helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1))
    elif layer.kind == "softmax":
        nodes.append(helper.make_node("Softmax", ["x"], ["y"], axis=-1))
    else:
        op = "MaxPool" if layer.kind == "maxpool" else "AveragePool"
        nodes.append(helper.make_node(op, ["x"], ["y"], **window))
    if layer.relu:
        nodes[-1].output[0] = "z"
        nodes.append(helper.make_node("Relu", ["z"], ["y"]))
    return _model(nodes, constants, shape)


def _model(nodes: Any, constants: dict[str, np.ndarray], shape: tuple[int, ...]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ascontiguousarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return onnx.shape_inference.infer_shapes(model)


class OnnxRuntime:
    """A model on one thread, with input and output bound beforehand."""

    def __init__(self, model: onnx.ModelProto, x: np.ndarray, level: Any):
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = level
        options.log_severity_level = 3
        self.session = ort.InferenceSession(
            model.SerializeToString(), options, ["CPUExecutionProvider"]
        )
        shape = [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim]
        self.result = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32)
        self.binding = self.session.io_binding()
        self.binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(x))
        self.binding.bind_ortvalue_output("y", self.result)

    def run(self, repeat: int) -> float:
        """Fastest seconds."""
        best = float("inf")
        for _ in range(repeat):
            start = time.perf_counter()
            self.session.run_with_iobinding(self.binding)
            best = min(best, time.perf_counter() - start)
        return best


def peak_loop(target: Target) -> Callable[[int], float]:
    """A function that measures multiply-adds a second of a tile of accumulators in registers."""
    lanes, rows, depth = (32, 10, 8192) if isa_of(target).startswith("avx512") else (16, 6, 8192)
    a = te.placeholder((2, rows), "float32", "a")
    w = te.placeholder((2, lanes), "float32", "w")
    k = te.reduce_axis((0, depth), "k")
    acc = te.compute((rows, lanes), lambda i, j: te.sum(a[k % 2, i] * w[k % 2, j], k), name="acc")
    out = te.compute((rows, lanes), lambda i, j: acc[i, j] + tirx.const(1, "float32"), name="out")
    sch = Schedule(te.create_prim_func([a, w, out]))
    block = sch.get_sblock("acc")
    i, j, steps = sch.get_loops(block)
    sch.reorder(steps, i, j)
    outer, inner = sch.split(steps, [None, 2])
    for loop in (inner, i):
        sch.unroll(loop)
    sch.vectorize(j)
    i, j = sch.get_loops(sch.get_sblock("out"))
    sch.unroll(i)
    sch.vectorize(j)
    sch.decompose_reduction(block, outer)
    library = tvm.compile(sch.mod, target=target).jit()
    args = [tvm.runtime.tensor(np.ones(s, np.float32)) for s in ((2, rows), (2, lanes))]
    args.append(tvm.runtime.tensor(np.ones((rows, lanes), np.float32)))
    evaluate = library.time_evaluator("main", tvm.cpu(), number=1)
    return lambda repeat: (
        rows * lanes * depth / min(min(evaluate(*args).results) for _ in range(repeat))
    )


def measure(
    layers: list[Layer], rounds: int, progress: Callable[[str], None], mcpu: str | None = None
) -> dict[str, Any]:
    """All rows, and the peak in multiply-adds a second."""
    target, rng = host_target(mcpu), np.random.default_rng(0)
    tvm.get_global_func("runtime.config_threadpool")(1, 1)
    peak_of = peak_loop(target)
    identity = _model([helper.make_node("Identity", ["x"], ["y"])], {}, (1, 4))
    levels = ort.GraphOptimizationLevel
    empty = OnnxRuntime(identity, np.zeros((1, 4), np.float32), levels.ORT_ENABLE_ALL)
    rows, peak = [], 0.0
    for layer in layers:
        progress(layer.name)
        p = layer.params
        shape = {"dense": (p.w, p.ci), "softmax": (p.w, p.co)}.get(layer.kind, (1, p.ci, p.h, p.w))
        x = rng.standard_normal(shape).astype(np.float32)
        weights = {
            "w": rng.standard_normal((p.co, p.cig, p.kh, p.kw)).astype(np.float32),
            "scale": rng.uniform(0.5, 2, p.co).astype(np.float32),
            "offset": rng.standard_normal(p.co).astype(np.float32),
        }
        ours = Ours(layer, target, x, weights)
        direct = Ours(layer, target, x, weights, direct=True)
        model = onnx_layer(layer, weights, shape)
        theirs = [
            OnnxRuntime(model, x, level)
            for level in (levels.ORT_ENABLE_EXTENDED, levels.ORT_ENABLE_ALL)
        ]
        best: dict[str, float] = {}
        for _ in range(rounds):
            times = (
                ours.run(5)
                | {"direct": direct.run(5)["layer"]}
                | {f"ort{i}": t.run(5) for i, t in enumerate(theirs)}
            )
            times["empty"] = empty.run(5)
            peak = max(peak, peak_of(2))
            best = {key: min(value, best.get(key, value)) for key, value in times.items()}
        ort_s = max(min(best["ort0"], best["ort1"]) - best["empty"], 1e-9)
        expected, actual = theirs[0].result.numpy(), ours.output.numpy()
        if actual.ndim == 4:
            actual = actual.transpose(0, 3, 1, 2)
        pad = best.get("pad", 0.0)
        same = direct.kernel == ours.kernel
        layer_s = min(best["layer"], best["direct"]) if same else best["layer"]
        seconds = layer_s + pad
        macs = p.macs if layer.kind in MAC_KINDS else 0
        rows.append(
            Row(
                layer=layer.name,
                case=str(p),
                kernel=ours.kernel,
                macs=macs,
                pad_ms=pad * 1e3,
                ms=seconds * 1e3,
                direct_ms=(best["direct"] + pad) * 1e3 if not same else seconds * 1e3,
                onnxruntime_ms=ort_s * 1e3,
                speedup=ort_s / seconds,
                gmacs_per_s=macs / seconds / 1e9,
                share_of_peak=0.0,
                max_abs_error=float(np.abs(expected - actual).max()),
                compile_s=ours.compile_s,
            )
        )
    for row in rows:
        row.share_of_peak = row.gmacs_per_s * 1e9 / peak
    return {"target": str(target), "peak_gmacs_per_s": peak / 1e9, "layers": rows}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="layers whose name contains this")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--mcpu", help="core as LLVM names it, such as x86-64-v3: default this one")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args(argv)
    layers = [layer for layer in LAYERS if args.only in layer.name]
    if not layers:
        parser.error(f"no layer's name contains {args.only!r}")

    def progress(name: str) -> None:
        if sys.stderr.isatty():
            print(name, file=sys.stderr)

    found = measure(layers, args.rounds, progress, args.mcpu)
    if args.json:
        print(json.dumps({**found, "layers": [asdict(row) for row in found["layers"]]}, indent=1))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"peak {found['peak_gmacs_per_s']:.1f} GMAC/s, one thread")
    for column in ("layer", "kernel"):
        table.add_column(column)
    for column in (
        "ms",
        "of it pad",
        "direct ms",
        "ORT ms",
        "speedup",
        "GMAC/s",
        "% of peak",
        "max error",
    ):
        table.add_column(column, justify="right")
    for row in found["layers"]:
        table.add_row(
            row.layer,
            row.kernel,
            f"{row.ms:.4f}",
            f"{row.pad_ms:.4f}",
            f"{row.direct_ms:.4f}",
            f"{row.onnxruntime_ms:.4f}",
            f"{row.speedup:.2f}",
            *((f"{row.gmacs_per_s:.1f}", f"{100 * row.share_of_peak:.0f}") if row.macs else "--"),
            f"{row.max_abs_error:.1e}",
        )
    Console(width=None if sys.stdout.isatty() else 130).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
