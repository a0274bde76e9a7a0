"""Constant folding: whatever does not depend on an input is computed now, by onnxruntime.

onnxruntime computes it as it would in the running model (its graph optimiser is off, which would
otherwise fuse and reorder), so folding is exact to the bit. The constant part runs as one graph in
one session; further rounds follow only where new constants make further shapes known.
"""

from __future__ import annotations

import threading
from collections import deque

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bnn_tvm.errors import ModelError
from bnn_tvm.frontend.graph import (
    MAX_ELEMENTS,
    attribute,
    drop_dead_nodes,
    elements,
    first_output,
    has_subgraph,
    listing,
    replace,
    static_shape,
    tensor_bytes,
    where,
)
from bnn_tvm.frontend.inline import inline_known_branches
from bnn_tvm.frontend.isolate import try_out
from bnn_tvm.frontend.operators import RANDOM, STATIC
from bnn_tvm.frontend.shapes import infer
from bnn_tvm.frontend.structure import first_lines

MAX_ROUNDS = 200
MAX_SECONDS = 60.0
# Constants may grow to three times what the file holds and this, results of a round included.
MAX_GROWTH_BYTES = 1 << 30

# Results no larger than their inputs, though onnx cannot say how large before they are computed.
_VALUE_SHAPED = ("NonZero", "Unique", "Compress")
# Constants above this are fed to the session, not written into its model.
_FEED_BYTES = 1 << 16
# What ordinary constants are made by, and what cannot end the process whatever it reads. Anything
# else (integers divided, the long tail of operators) is tried in a child first, at double the time.
_HARMLESS = frozenset(
    [
        *("Abs", "Add", "Cast", "Clip", "Concat", "Expand", "Flatten", "Gather", "Greater", "Less"),
        *(
            "GreaterOrEqual",
            "LessOrEqual",
            "Equal",
            "Identity",
            "Mul",
            "MatMul",
            "Neg",
            "Not",
            "ReduceMax",
        ),
        *("ReduceMean", "ReduceMin", "ReduceSum", "Relu", "Reshape", "Round", "Sign", "Slice"),
        *("Sqrt", "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze", "Where", "ConstantOfShape"),
    ]
)
_FED_DTYPES = ("float32", "float64", "float16", "int64", "int32", "int8", "uint8", "bool")

Origin = dict[str, tuple[str, tuple[str, ...]]]


def _held_bytes(graph: onnx.GraphProto) -> int:
    return sum(tensor_bytes(tensor) for tensor in graph.initializer)


class Folder:
    """Folds a model round by round and remembers what made each constant.

    origin: constant tensor -> (op type, inputs) of the node that made it. `aliases` overrides the
    op type for nodes that stand for another operator.
    """

    def __init__(self, model: onnx.ModelProto, aliases: dict[str, str]) -> None:
        self.model = model
        self.aliases = aliases
        self.origin: Origin = {}
        self.limit = MAX_GROWTH_BYTES + 3 * _held_bytes(model.graph)

    def fold(self) -> dict[str, tuple[str, ...]]:
        """Fold until nothing changes; return the op types behind each folded initializer.

        Raises ModelError for constants too large, too slow or impossible to compute.
        """
        drop_dead_nodes(self.model.graph)
        for _ in range(MAX_ROUNDS):
            if not self._has_candidates():
                break
            known = infer(self.model)
            changed = self._shapes(known)
            changed |= self._round(known)
            changed |= inline_known_branches(self.model)
            if not changed:
                break
        self._refuse_rest()
        drop_dead_nodes(self.model.graph)
        names = [tensor.name for tensor in self.model.graph.initializer]
        return {name: self._ancestry(name) for name in names if name in self.origin}

    def _has_candidates(self) -> bool:
        constants = {tensor.name for tensor in self.model.graph.initializer}
        return any(
            node.op_type in STATIC or all(name in constants for name in node.input if name)
            for node in self.model.graph.node
        )

    def _shapes(self, known: dict[str, onnx.ValueInfoProto]) -> bool:
        """Shape and Size of static tensors are constants whatever the values are."""
        graph = self.model.graph
        rest = []
        for node in graph.node:
            shape = None
            if node.op_type in STATIC and node.input[0] in known:
                shape = static_shape(known[node.input[0]])
            if shape is None:
                rest.append(node)
                continue
            value = np.asarray(shape, np.int64)
            if node.op_type == "Size":
                value = np.asarray(elements(shape), np.int64)
            else:
                value = value[attribute(node, "start", 0) : attribute(node, "end", len(shape))]
            graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
            self.origin[node.output[0]] = (node.op_type, ())
        changed = len(rest) < len(graph.node)
        if changed:
            replace(graph.node, rest)
        return changed

    def _round(self, known: dict[str, onnx.ValueInfoProto]) -> bool:
        """Compute, in one session, the constant nodes whose result sizes are known."""
        graph = self.model.graph
        constants = {tensor.name for tensor in graph.initializer}
        budget = self.limit - _held_bytes(graph)
        made: set[str] = set()
        folded, rest = [], []
        for node in graph.node:
            size = self._result_bytes(node, constants, made, known)
            if size is None or size > budget:
                rest.append(node)
                continue
            budget -= size
            folded.append(node)
            made.update(name for name in node.output if name)
        if not folded:
            return False
        used = {name for node in rest for name in node.input}
        used |= {output.name for output in graph.output}
        wanted = [n for node in folded for n in node.output if n in used]
        for name, value in zip(wanted, self._compute(folded, wanted), strict=True):
            graph.initializer.append(numpy_helper.from_array(value, name))
        for node in folded:
            for name in node.output:
                op = self.aliases.get(name, node.op_type)
                self.origin[name] = (op, tuple(n for n in node.input if n))
        replace(graph.node, rest)
        drop_dead_nodes(graph)
        return True

    def _result_bytes(
        self,
        node: onnx.NodeProto,
        constants: set[str],
        made: set[str],
        known: dict[str, onnx.ValueInfoProto],
    ) -> int | None:
        """Bytes of a node's results if it can be computed now, else None."""
        inputs = [name for name in node.input if name]
        if has_subgraph(node) or node.op_type in RANDOM:
            return None
        if not all(name in constants or name in made for name in inputs):
            return None
        if node.op_type in _VALUE_SHAPED and all(name in constants for name in inputs):
            return 64 * sum(elements(static_shape(known[name]) or ()) for name in inputs)
        total = 0
        for name in node.output:
            shape = static_shape(known[name]) if name in known else None
            if name and (shape is None or elements(shape) > MAX_ELEMENTS):
                return None
            if name and shape is not None:
                dtype = known[name].type.tensor_type.elem_type
                total += elements(shape) * helper.tensor_dtype_to_np_dtype(dtype).itemsize
        return total

    def _compute(self, nodes: list[onnx.NodeProto], wanted: list[str]) -> list[np.ndarray]:
        if not wanted:
            return []
        import onnxruntime as ort

        model, feeds = self._constant_model(nodes, wanted)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        run = ort.RunOptions()
        run.log_severity_level = 4

        def compute() -> list[np.ndarray]:
            timer = threading.Timer(MAX_SECONDS, lambda: setattr(run, "terminate", True))
            timer.daemon = True
            session = ort.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            timer.start()
            try:
                return session.run(wanted, feeds, run)
            finally:
                timer.cancel()

        if any(node.op_type not in _HARMLESS for node in nodes):
            what = "computing the constant part of the model"
            try_out(compute, what, time_limit_s=MAX_SECONDS + 10)
        try:
            return compute()
        except Exception as error:  # onnxruntime raises a class of its own per status code
            raise ModelError(
                "onnxruntime cannot compute the constant part of the model "
                f"({len(nodes)} nodes, among them {listing([where(n) for n in nodes], 3)}): "
                + first_lines(error),
                node=wanted[0],
                hint="simplify the model where it is exported, or compute these constants there",
            ) from error

    def _constant_model(
        self, nodes: list[onnx.NodeProto], wanted: list[str]
    ) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
        """The constant nodes as a model of their own; large constants become its inputs."""
        needed = {name for node in nodes for name in node.input}
        graph = onnx.GraphProto(name="constants")
        feeds: dict[str, np.ndarray] = {}
        for tensor in self.model.graph.initializer:
            if tensor.name not in needed:
                continue
            large = tensor_bytes(tensor) > _FEED_BYTES
            dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type).name
            if large and dtype in _FED_DTYPES:
                feeds[tensor.name] = numpy_helper.to_array(tensor)
                graph.input.append(
                    helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
                )
            else:
                graph.initializer.append(tensor)
        graph.node.extend(nodes)
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
        opsets = list(self.model.opset_import)
        return helper.make_model(graph, opset_imports=opsets, ir_version=10), feeds

    def _refuse_rest(self) -> None:
        """Constants that could not be computed: too large, or nobody knows how large."""
        variable = {value.name for value in self.model.graph.input}
        rest = []
        for node in self.model.graph.node:
            if any(name in variable for name in node.input):
                variable.update(node.output)
            else:
                rest.append(node)
        if rest:
            raise ModelError(
                "constants of unknown or excessive size cannot be computed: "
                + listing([where(node) for node in rest], 8),
                node=first_output(rest[0]),
                hint=f"a constant has at most {MAX_ELEMENTS} elements; compute it before exporting",
            )

    def _ancestry(self, name: str, limit: int = 256) -> tuple[str, ...]:
        """Distinct op types behind a constant, nearest first; looks at `limit` nodes at most."""
        found: dict[str, None] = {}
        pending, seen = deque([name]), {name}
        while pending and limit:
            limit -= 1
            entry = self.origin.get(pending.popleft())
            if entry is None:
                continue
            found.setdefault(entry[0])
            for source in entry[1]:
                if source not in seen:
                    seen.add(source)
                    pending.append(source)
        return tuple(found)
