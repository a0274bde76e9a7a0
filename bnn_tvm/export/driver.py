"""The C file of one model: tables for the runtime and the kernel calls with their addresses.

Every address is a constant offset into the arena, into the weights, or a pointer of the caller,
so a run allocates nothing and decides nothing but, where there are families of kernels, which calls
are its family's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bnn_tvm.errors import BnnError
from bnn_tvm.export.kernels_abi import PREFIX
from bnn_tvm.export.memory_plan import MemoryPlan, align
from bnn_tvm.export.metadata import LayerInfo, Metadata, TensorInfo
from bnn_tvm.program import Program, Tensor

#: A kernel call has a bit for each.
MAX_FAMILIES = 8
#: Assembly that puts weights.bin into the read-only data: instant whatever its size.
WEIGHTS_ASSEMBLY = """\
    .section .rodata.bnn_weights,"a",%progbits
    .balign 64
    .globl bnn_weights
    .hidden bnn_weights
    .type bnn_weights,%object
bnn_weights:
    .incbin "weights.bin"
    .size bnn_weights, . - bnn_weights
    .section .note.GNU-stack,"",%progbits
"""


@dataclass(frozen=True)
class Weights:
    """The constants of a program in one block; equal constants share their bytes."""

    blob: bytes
    offsets: dict[int, int]


def pack_weights(program: Program) -> Weights:
    """All constants, each at a multiple of 64. An empty program still has 64 bytes."""
    chunks: list[bytes] = []
    offsets: dict[int, int] = {}
    seen: dict[bytes, int] = {}
    position = 0
    for index, tensor in enumerate(program.tensors):
        if tensor.role != "constant":
            continue
        assert tensor.data is not None
        data = np.ascontiguousarray(tensor.data).tobytes()
        digest = hashlib.sha256(data).digest()
        if digest not in seen:
            seen[digest] = position
            padded = align(len(data))
            chunks.append(data.ljust(padded, b"\0"))
            position += padded
        offsets[index] = seen[digest]
    return Weights(b"".join(chunks) or bytes(64), offsets)


def generate(program: Program, memory: MemoryPlan, weights: Weights, metadata: Metadata) -> str:
    """The text of model.c. `metadata` gives names, layers, features and the test vector."""
    inputs = _tensor_table("inputs", metadata.inputs)
    outputs = _tensor_table("outputs", metadata.outputs)
    parts = [
        '#include "model.h"\n\n#include <string.h>\n',
        'extern const unsigned char bnn_weights[] __attribute__((visibility("hidden")));\n',
        _prototypes(program),
        _calls(program, memory, weights),
        _finish(program, memory, weights),
        inputs,
        outputs,
        _layer_table(metadata.layers),
        _features(metadata.features),
        _test_table(metadata),
        _choice(program),
        _model(program, memory, metadata),
    ]
    return "\n".join(parts)


def _prototypes(program: Program) -> str:
    arity = {call.symbol: len(call.args) for call in program.calls}
    lines = [
        f"int32_t {PREFIX}{symbol}({', '.join(['void *'] * count)});"
        for symbol, count in arity.items()
    ]
    return "\n".join(lines) + "\n"


def _address(program: Program, memory: MemoryPlan, weights: Weights, index: int) -> str:
    """The C expression for the address of a tensor."""
    if index in program.inputs:
        return f"(void *)b->in[{program.inputs.index(index)}]"
    if index in weights.offsets:
        return f"(void *)(bnn_weights + {weights.offsets[index]}u)"
    if index in memory.offsets:
        return f"b->arena + {memory.offsets[index]}u"
    return f"b->out[{program.outputs.index(index)}]"


def _calls(program: Program, memory: MemoryPlan, weights: Weights) -> str:
    lines = ["int32_t bnn_model_call(int32_t layer, const bnn_buffers *b) {", "  switch (layer) {"]
    for step, call in enumerate(program.calls):
        args = ", ".join(_address(program, memory, weights, i) for i in call.args)
        lines.append(f"    case {step}: return {PREFIX}{call.symbol}({args});")
    lines += ["  }", "  (void)b;", "  return -1;", "}\n"]
    return "\n".join(lines)


def _finish(program: Program, memory: MemoryPlan, weights: Weights) -> str:
    lines = ["void bnn_model_finish(const bnn_buffers *b) {", "  (void)b;"]
    for position, index in enumerate(program.outputs):
        source = _address(program, memory, weights, index)
        if source != f"b->out[{position}]":
            nbytes = program.tensors[index].nbytes
            lines.append(f"  memcpy(b->out[{position}], {source}, {nbytes}u);")
    lines.append("}\n")
    return "\n".join(lines)


def _tensor_table(name: str, infos: Sequence[TensorInfo]) -> str:
    lines = []
    rows = []
    for i, info in enumerate(infos):
        nbytes = Tensor("", info.shape, info.dtype, "input").nbytes
        shape = ", ".join(str(d) for d in info.shape) or "0"
        lines.append(f"static const int64_t {name}_shape_{i}[] = {{{shape}}};")
        rows.append(
            f"  {{{c_string(info.name)}, {c_string(info.dtype)}, {c_string(info.layout)}, "
            f"{len(info.shape)}, {name}_shape_{i}, {nbytes}u}},"
        )
    rows.append("  {0},")
    return "\n".join([*lines, f"static const bnn_tensor_info the_{name}[] = {{", *rows, "};\n"])


def _layer_table(layers: Sequence[LayerInfo]) -> str:
    rows = [
        f"  {{{c_string(x.output)}, {c_string(x.kind)}, {c_string(x.kernel)}, {x.macs}u}},"
        for x in layers
    ]
    return "\n".join(["static const bnn_layer_info the_layers[] = {", *rows, "  {0},", "};\n"])


def _features(features: Sequence[str]) -> str:
    rows = "".join(f"{c_string(f)}, " for f in features)
    lacks = "this processor lacks an instruction set the model was built for"
    if features:
        lacks += f"; it uses {', '.join(features)}"
    return (
        f"static const char *const the_features[] = {{{rows}0}};\n"
        f"static const char the_cpu_text[] = {c_string(lacks)};\n"
    )


def _test_table(metadata: Metadata) -> str:
    if metadata.test_vector is None:
        return ""
    lines = []
    rows = []
    for i, expected in enumerate(metadata.test_vector.outputs):
        values = ", ".join(_c_float(v) for v in expected.values) or "0"
        lines.append(f"static const float expected_{i}[] = {{{values}}};")
        rows.append(f"  {{{expected.stride}u, {len(expected.values)}u, expected_{i}}},")
    return "\n".join(
        [*lines, "static const bnn_expected the_expected[] = {", *rows, "  {0},", "};\n"]
    )


def _choice(program: Program) -> str:
    """The families of kernels, which calls each makes, and which core takes which."""
    choice = program.choice
    if choice is None:
        return ""
    number = {name: index for index, name in enumerate(choice.families)}
    if len(number) > MAX_FAMILIES:
        raise BnnError(f"more than {MAX_FAMILIES} families of kernels")
    everyone = (1 << len(number)) - 1
    masks = [sum(1 << number[f] for f in call.families) or everyone for call in program.calls]
    names = ", ".join(c_string(name) for name in choice.families)
    cores = [
        f"  {{{core.implementer:#x}, {core.part:#x}, {number[core.family]}}},"
        for core in choice.cores
    ]
    return "\n".join(
        [
            f"static const char *const the_families[] = {{{names}}};",
            f"static const uint8_t the_layer_families[] = {{{', '.join(map(str, masks))}}};",
            "static const bnn_known_core the_cores[] = {",
            *cores,
            "};",
            "static const bnn_choice the_choice = {",
            f"  {len(number)}, the_families, the_layer_families, {len(cores)}, the_cores,",
            f"  {number[choice.unknown]}, {number[choice.unreadable]}",
            "};\n",
        ]
    )


def _model(program: Program, memory: MemoryPlan, metadata: Metadata) -> str:
    test = metadata.test_vector
    tail = "0, 0, 0, 0, 0, 0"
    if test is not None:
        numbers = ", ".join(float(v).hex() for v in (test.atol, test.rtol, test.low, test.high))
        tail = f"the_expected, {test.seed & 0xFFFFFFFFFFFFFFFF}u, {numbers}"
    return (
        "const bnn_model bnn_the_model = {\n"
        f"  {c_string(metadata.tool_version)}, {c_string(metadata.source)},\n"
        f"  {len(metadata.inputs)}, {len(metadata.outputs)}, {len(program.calls)},\n"
        f"  the_inputs, the_outputs, the_layers, {memory.arena_bytes}u,\n"
        f"  the_features, the_cpu_text, {tail},\n"
        f"  {'&the_choice' if program.choice else '0'}\n"
        "};\n"
    )


def c_string(text: str) -> str:
    """A C literal of any text: all but plain characters as octal escapes of UTF-8."""
    plain = set(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:+ ,()[]")
    data = text.replace("\0", "\N{SYMBOL FOR NULL}").encode("utf-8", "replace")
    return '"' + "".join(chr(b) if b in plain else f"\\{b:03o}" for b in data) + '"'


def _c_float(value: float) -> str:
    if value != value:
        return '__builtin_nanf("")'
    if value in (float("inf"), float("-inf")):
        return f"{'-' if value < 0 else ''}__builtin_inff()"
    return f"{float(np.float32(value)).hex()}f"
