"""Kernels in a static aarch64 program that needs no libc, to run under qemu and to count.

The program holds its inputs, calls every case's kernels between two empty marker functions,
`armcost_begin_<name>` and `armcost_end_<name>`, and writes all outputs to the file named by its
argument. Without a libc it links in a fraction of a second on any machine that has zig.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tvm
from tvm import te
from tvm.target import Target
from tvm.tirx import PrimFunc

from bnn_tvm.export.kernels_abi import lower
from bnn_tvm.export.link import runtime_dir
from topi_ext import bitpack, reference, threshold
from topi_ext.arm_cpu.cores import tuning_of
from topi_ext.kernels import Kernel
from topi_ext.params import ConvParams
from topi_ext.schedule import schedule_primfunc

_RUNTIME = r"""
typedef unsigned long size_t;
typedef unsigned char u8;

/* What compilers may call without being asked. */
void *memset(void *p, int v, size_t n) { volatile u8 *d = p; while (n--) *d++ = v; return p; }
void *memcpy(void *p, const void *q, size_t n)
{ volatile u8 *d = p; const u8 *s = q; while (n--) *d++ = *s++; return p; }

/* TVM's slot for parallel loops: one task, in line. */
typedef struct { void *sync; int num_task; } group_env;
static int launch(int (*task)(int, group_env *, void *), void *data, int tasks)
{ group_env env = {0, 1}; (void)tasks; return task(0, &env, data); }
int (*__TVMBackendParallelLaunch)(int (*)(int, group_env *, void *), void *, int) = launch;

static long call(long number, long a, long b, long c, long d)
{
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
    return x0;
}
static void leave(int code) { for (;;) call(94, code, 0, 0, 0); }
static int out;
static void put(const u8 *p, size_t n)
{
    while (n) { long k = call(64, out, (long)p, n, 0); if (k <= 0) leave(3); p += k; n -= k; }
}
#define MARK(n) __attribute__((noinline, used)) void n(void) { __asm__ volatile("" ::: "memory"); }
static void cases(void);
void start(long *sp)
{
    if (sp[0] < 2) leave(2);
    out = call(56, -100, sp[2], 01101, 0644); /* openat, write-create-truncate */
    if (out < 0) leave(4);
    cases();
    leave(0);
}
__asm__(".globl _start\n_start: mov x0, sp\n\tand sp, x0, #-16\n\tbl start\n");
"""


@dataclass(frozen=True)
class Case:
    """One kernel on one shape.

    name: a C identifier. epilogue: "integers" returns the kernel's int32, "float" what a layer
    does to them, float32 scale * y + offset per output channel, "words" the packed bits of its
    comparison with a threshold per output channel. word_bits: of those words.
    """

    name: str
    params: ConvParams
    kernel: Kernel
    epilogue: str = "integers"
    word_bits: int = 64


@dataclass(frozen=True)
class PackCase:
    """Packing of a layer's float input: with one threshold, one per channel, or turned ones too.

    name: a C identifier. limits: "zero", "channel" or "turned". dtype: of the input.
    """

    name: str
    params: ConvParams
    word_bits: int
    limits: str = "zero"
    dtype: str = "float32"


@dataclass(frozen=True)
class Prepared:
    """A case with its functions, in the order of their calls, its data, and the truth."""

    case: Case | PackCase
    functions: dict[str, PrimFunc]
    inputs: tuple[np.ndarray, ...]
    staged_bytes: int  # what the kernel's `prepare` writes, 0 without
    expected: np.ndarray


@dataclass(frozen=True)
class Program:
    """An executable with its cases and its assembly text."""

    path: Path
    cases: tuple[Prepared, ...]
    assembly: str


def missing_tool() -> str | None:
    """Why arm64 programs cannot be built and run here, or None."""
    if shutil.which("qemu-aarch64") is None:
        return "qemu-aarch64 is not installed"
    if importlib.util.find_spec("ziglang") is None:
        return "ziglang is not installed"
    return None


def arm64_target(core: str) -> Target:
    """The target of a core as LLVM names it, tuned as the product's."""
    fields = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": core}
    tuning = list(tuning_of(core))
    return Target({**fields, **({"mattr": tuning} if tuning else {})})


def sme2_target(core: str = "generic") -> Target:
    """A target with SME2: by the core, or for the generic one by the feature."""
    fields = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": core}
    return Target({**fields, **({"mattr": ["+sme2"]} if core == "generic" else {})})


def prepare_case(case: Case | PackCase, target: Target) -> Prepared:
    """Random data of the shape, the truth by `topi_ext.reference`, and the scheduled functions."""
    if isinstance(case, PackCase):
        return _prepare_pack(case, target)
    return _prepare_conv(case, target)


def _prepare_pack(case: PackCase, target: Target) -> Prepared:
    p = case.params
    rng = np.random.default_rng(len(str(p)))
    x = rng.integers(-3, 4, (p.n, p.h, p.w, p.ci)).astype(case.dtype)
    x[rng.random(x.shape) < 0.1] = -0.0
    x[rng.random(x.shape) < 0.1] = np.nan
    arrays = [x]
    if case.limits != "zero":
        special = np.array([-1, -0.0, 0, 2, np.inf, -np.inf, np.nan], case.dtype)
        arrays.append(rng.choice(special, p.ci))
    if case.limits == "turned":
        arrays.append(rng.integers(0, 2, p.ci, np.uint8))
    limit = arrays[1] if len(arrays) > 1 else 0.0
    signs = reference.binarize(x, limit, arrays[2] if len(arrays) > 2 else False)
    tensors = [_placeholder(array, f"in{i}") for i, array in enumerate(arrays)]
    words = bitpack.pack(
        tensors[0],
        tensors[1] if len(tensors) > 1 else 0.0,
        tensors[2] if len(tensors) > 2 else None,
        p,
        case.word_bits,
    )
    functions = {case.name: _function([*tensors, words], target)}
    expected = reference.pack_padded(signs, p, case.word_bits)
    return Prepared(case, functions, tuple(arrays), 0, expected)


def _prepare_conv(case: Case, target: Target) -> Prepared:
    p, kernel = case.params, case.kernel
    rng = np.random.default_rng(len(str(p)))
    signs = rng.integers(0, 2, (p.n, p.h, p.w, p.ci), np.int8) * 2 - 1
    weights = rng.integers(0, 2, (p.co, p.cig, p.kh, p.kw), np.int8) * 2 - 1
    integers = reference.bconv2d(signs, weights, p)
    words = reference.pack_padded(signs, p, kernel.word_bits)

    packed = _placeholder(words, "packed")
    functions: dict[str, PrimFunc] = {}
    data, staged = packed, 0
    if kernel.prepare is not None:
        staged_form = kernel.prepare(packed, p)
        functions[f"{case.name}_prepare"] = _function([packed, staged_form], target)
        data = te.placeholder(staged_form.shape, staged_form.dtype, "data")
        extents = [int(extent) for extent in staged_form.shape]
        staged = int(np.prod(extents)) * np.dtype(str(staged_form.dtype)).itemsize
    behind = _words if case.epilogue == "words" else _numbers
    arrays, tensors, expected = behind(case, data, weights, integers, rng)
    functions[case.name] = _function([data, *tensors], target)
    return Prepared(case, functions, (words, *arrays), staged, expected)


def _numbers(
    case: Case, data: te.Tensor, weights: np.ndarray, integers: np.ndarray, rng: np.random.Generator
) -> tuple[list[np.ndarray], list[te.Tensor], np.ndarray]:
    """The arrays, the tensors of the arrays and of the result, and the truth: int32 or float32."""
    p = case.params
    arrays = list(case.kernel.pack_weights(weights, p))
    tensors = [_placeholder(array, f"w{i}") for i, array in enumerate(arrays)]
    y = case.kernel.compute(data, *tensors, params=p)
    if case.epilogue == "integers":
        return arrays, [*tensors, y], integers
    extra = [rng.standard_normal(p.co).astype(np.float32) for _ in range(2)]
    scale, offset = (_placeholder(a, n) for a, n in zip(extra, ("scale", "offset"), strict=True))
    z = te.compute(
        p.out_shape,
        lambda n, i, j, c: y[n, i, j, c].astype("float32") * scale[c] + offset[c],
        name="scaled",
    )
    expected = (integers * extra[0] + extra[1]).astype(np.float32)
    return [*arrays, *extra], [*tensors, scale, offset, z], expected


def _words(
    case: Case, data: te.Tensor, weights: np.ndarray, integers: np.ndarray, rng: np.random.Generator
) -> tuple[list[np.ndarray], list[te.Tensor], np.ndarray]:
    """The same for packed bits of scale * y + offset, rounded once, against thresholds that every
    channel meets exactly somewhere, from above or below; some are NaN.
    """
    p, kernel = case.params, case.kernel
    scale = rng.choice(np.array([1, -0.5, 0.3, 0], np.float32), p.co)
    offset = rng.standard_normal(p.co).astype(np.float32)
    y = threshold.affine(scale, integers.astype(np.float32), offset, fused=True)
    rows = y.reshape(-1, p.co)
    limit = rows[rng.integers(0, len(rows), p.co), np.arange(p.co)]
    limit = np.where(rng.random(p.co) < 0.1, np.float32(np.nan), limit).astype(np.float32)
    up = rng.random(p.co) < 0.5
    signs = np.where(np.where(up, y >= limit, y <= limit), 1, -1).astype(np.int8)
    limits, sign = threshold.integer_limits(scale, offset, limit, up, p.taps, fused=True)
    arrays = list(threshold.pack_weights(kernel, weights, limits, sign, p))
    tensors = [_placeholder(array, f"w{i}") for i, array in enumerate(arrays)]
    out = threshold.threshold_words(
        data, *tensors, params=p, kernel=kernel, word_bits=case.word_bits
    )
    return arrays, [*tensors, out], reference.pack_bits(signs, case.word_bits)


def compile_cases(
    cases: Sequence[Case | PackCase], target: Target, object_file: Path | None = None
) -> tuple[tuple[Prepared, ...], str]:
    """Schedule and compile the cases, to `object_file` if given. Returns the assembly text too."""
    prepared = tuple(prepare_case(case, target) for case in cases)
    functions = {
        name: func.with_attr("global_symbol", name)
        for one in prepared
        for name, func in one.functions.items()
    }
    module = lower(tvm.IRModule(functions), target)
    built = tvm.get_global_func("target.build.llvm")(module, target)
    if object_file is not None:
        built.write_to_file(str(object_file), "o")
    return prepared, str(built.inspect_source("s"))


def build(cases: Sequence[Case | PackCase], target: Target, directory: Path) -> Program:
    """Schedule, compile and link the cases. Raises CalledProcessError if zig fails."""
    prepared, assembly = compile_cases(cases, target, directory / "kernels.o")
    return link(prepared, assembly, directory)


def link(prepared: tuple[Prepared, ...], assembly: str, directory: Path) -> Program:
    """Link `kernels.o` in `directory` with the data of the cases it holds.

    Raises CalledProcessError if zig fails.
    """
    objects, source, path = directory / "kernels.o", directory / "main.c", directory / "program"
    source.write_text(_c_source(prepared, directory))
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl"]
    flags = ["-O1", "-static", "-no-pie", "-nostdlib", "-ffreestanding", "-fno-sanitize=all"]
    files = [str(source), str(runtime_dir() / "src" / "sme.c"), str(objects)]
    subprocess.run([*zig, *flags, *files, "-o", str(path)], check=True)
    return Program(path, prepared, assembly)


def run(program: Program, qemu: Sequence[str] = ("qemu-aarch64",)) -> dict[str, np.ndarray]:
    """The outputs by case name, from a run under `qemu` (a command with its options).

    Raises CalledProcessError on a crash.
    """
    out = program.path.with_suffix(".out")
    subprocess.run([*qemu, str(program.path), str(out)], check=True)
    return read_outputs(program, out)


def read_outputs(program: Program, out: Path) -> dict[str, np.ndarray]:
    """The outputs by case name from the file a run has written."""
    raw, at, outputs = out.read_bytes(), 0, {}
    for one in program.cases:
        e = one.expected
        outputs[one.case.name] = np.frombuffer(raw, e.dtype, e.size, at).reshape(e.shape)
        at += e.nbytes
    if at != len(raw):
        raise ValueError(f"{out} holds {len(raw)} bytes, not {at}")
    return outputs


def is_correct(one: Prepared, output: np.ndarray) -> bool:
    """Integers must be equal; float results may differ by the rounding of one multiply-add."""
    if one.expected.dtype.kind != "f":
        return bool(np.array_equal(output, one.expected))
    return bool(np.allclose(output, one.expected, rtol=1e-6, atol=1e-4))


def function_text(assembly: str, symbol: str) -> str:
    """The assembly of a kernel together with the bodies of its parallel loops."""
    bodies: dict[str, list[str]] = {}
    name = ""
    for line in assembly.splitlines():
        label = re.match(r"((?:\.L__tvm_parallel_lambda|[A-Za-z_])[\w.]*):", line)
        if label:
            name = label.group(1)
        bodies.setdefault(name, []).append(line)
    text = "\n".join(bodies[symbol])
    called = dict.fromkeys(re.findall(r"\.L__tvm_parallel_lambda[\w.]*", text))
    return "\n".join([text, *("\n".join(bodies[task]) for task in called if task in bodies)])


def loops_with(text: str, instruction: str) -> list[list[str]]:
    """The innermost loops of an assembly text that contain `instruction`, as instruction lists."""
    blocks, successors = _basic_blocks(text)
    loops = _natural_loops(successors)
    inner = [
        body
        for header, body in loops.items()
        if not any(other != header and other in body for other in loops)
    ]
    codes = [[line for block in sorted(body) for line in blocks[block]] for body in inner]
    return [code for code in codes if any(line.split()[0] == instruction for line in code)]


def _basic_blocks(text: str) -> tuple[list[list[str]], list[list[int]]]:
    """The basic blocks of an assembly text as instruction lists, and where each may go on."""
    blocks: list[list[str]] = [[]]
    labels: dict[str, int] = {}
    for line in (line.strip() for line in text.splitlines()):
        label = re.match(r"([.\w]+):", line)
        if label:
            if blocks[-1]:
                blocks.append([])
            labels[label.group(1)] = len(blocks) - 1
        elif line and not line.startswith((".", "//")):
            blocks[-1].append(line)
            if re.match(r"(b|b\.\w+|cbn?z|tbn?z|ret|br)\s*(\s|$)", line):
                blocks.append([])
    successors: list[list[int]] = []
    for at, block in enumerate(blocks):
        last = block[-1] if block else ""
        target = re.match(r"(b|b\.\w+|cbn?z|tbn?z)\s.*?([.\w]+)$", last)
        found = [labels[target.group(2)]] if target and target.group(2) in labels else []
        if not re.match(r"(b|ret|br)(\s|$)", last) and at + 1 < len(blocks):
            found.append(at + 1)
        successors.append(found)
    return blocks, successors


def _natural_loops(successors: list[list[int]]) -> dict[int, set[int]]:
    """The blocks of every loop by the block that it is entered through."""
    count = len(successors)
    before: list[list[int]] = [[] for _ in range(count)]
    for block, found in enumerate(successors):
        for other in found:
            before[other].append(block)
    dominators = [set(range(count)) if before[block] else {block} for block in range(count)]
    changed = True
    while changed:
        changed = False
        for block in range(count):
            if before[block]:
                new = set.intersection(*(dominators[other] for other in before[block])) | {block}
                changed, dominators[block] = changed or new != dominators[block], new
    loops: dict[int, set[int]] = {}
    for block, found in enumerate(successors):
        for header in found:
            if header in dominators[block]:
                body, waiting = loops.setdefault(header, {header}), [block]
                while waiting:
                    at = waiting.pop()
                    if at not in body:
                        body.add(at)
                        waiting += before[at]
    return loops


def _placeholder(array: np.ndarray, name: str) -> te.Tensor:
    return te.placeholder(array.shape, str(array.dtype), name)


def _function(tensors: list[te.Tensor], target: Target) -> PrimFunc:
    # Relax gives its functions 64-bit indices; what is tested should be what is compiled.
    return schedule_primfunc(te.create_prim_func(tensors, index_dtype_override="int64"), target)


def _c_source(prepared: Sequence[Prepared], directory: Path) -> str:
    head, body, data = [_RUNTIME], [], []
    for one in prepared:
        name = one.case.name
        arrays = [f"{name}_in{i}" for i in range(len(one.inputs))]
        for label, array in zip(arrays, one.inputs, strict=True):
            blob = directory / f"{label}.bin"
            blob.write_bytes(np.ascontiguousarray(array).tobytes())
            data.append(f'.balign 64\\n{label}: .incbin \\"{blob}\\"\\n')
            head.append(f"extern u8 {label}[];")
        head.append(f"MARK(armcost_begin_{name}) MARK(armcost_end_{name})")
        size = one.expected.nbytes
        head.append(f"static _Alignas(64) u8 {name}_out[{size}];")
        head.append(f"int {name}({', '.join(['void *'] * (len(arrays) + 1))});")
        body.append(f"memset({name}_out, 0xee, {size});")
        body.append(f"armcost_begin_{name}();")
        if one.staged_bytes:
            head.append(f"static _Alignas(64) u8 {name}_staged[{one.staged_bytes}];")
            head.append(f"int {name}_prepare(void *, void *);")
            body.append(f"if ({name}_prepare({arrays[0]}, {name}_staged)) leave(5);")
            arrays[0] = f"{name}_staged"
        body.append(f"if ({name}({', '.join(arrays)}, {name}_out)) leave(6);")
        body.append(f"armcost_end_{name}();")
        body.append(f"put({name}_out, {size});")
    blobs = "".join(f'    "{text}"\n' for text in data)
    section = f'__asm__(".section .rodata\\n"\n{blobs}    ".text\\n");'
    lines = "\n".join(f"    {line}" for line in body)
    return "\n".join([*head, section, f"static void cases(void)\n{{\n{lines}\n}}\n"])
