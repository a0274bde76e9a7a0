"""`load`: a compiled model on this machine, as a Python object."""

from __future__ import annotations

import ctypes
import os
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bnn_tvm.errors import DeviceError, FileError, UsageError
from bnn_tvm.export.metadata import Metadata, TensorInfo
from bnn_tvm.runtime import capi
from bnn_tvm.runtime.arrays import InputCheck, Pointers
from bnn_tvm.runtime.elf import host_is_android, host_machine
from bnn_tvm.runtime.families import check_family
from bnn_tvm.runtime.files import ModelFiles, open_files
from bnn_tvm.targets import is_android


@dataclass(frozen=True)
class LayerTime:
    """One kernel call's time in milliseconds and its share (0 to 1) of the run."""

    output: str
    kind: str
    kernel: str
    ms: float
    share: float


class Model:
    """A compiled model with a context of its own.

    Made by `load`. Each object owns its threads and its memory; one object serves one caller at a
    time (a lock makes others wait), several objects of one file run side by side.
    """

    emulated = False
    place = ""

    def __init__(self, files: ModelFiles, threads: int, kernels: str | None = None) -> None:
        self.metadata: Metadata = files.metadata
        self.path = files.so
        self.threads = threads
        self._lock = threading.Lock()
        self._library = capi.open_library(files.so)
        try:
            self.inputs: tuple[TensorInfo, ...] = self._infos("input")
            self.outputs: tuple[TensorInfo, ...] = self._infos("output")
            self._sources, self._targets = Pointers(self.inputs), Pointers(self.outputs)
            self._check_inputs = InputCheck(self.inputs)
            self._names = [info.name for info in self.outputs]
            self._forms = [(info.shape, np.dtype(info.dtype)) for info in self.outputs]
            self._context = self._create(files, kernels)
        except BaseException:
            capi.close_library(self._library)
            raise
        self._finalizer = weakref.finalize(self, _release, self._library, self._context)

    @property
    def kernels(self) -> str:
        """The family of kernels that it runs; empty where there was nothing to choose."""
        if not self.metadata.families:
            return ""
        return str(self._library.bnn_family(self._alive()).decode())

    def run(self, inputs: Any) -> dict[str, np.ndarray]:
        """Run the model once.

        `inputs` maps names to arrays of the shapes and dtypes in `self.inputs`; a bare array is
        accepted where there is one input. Returns new arrays by output name. Raises `UsageError`
        for a wrong name, shape or dtype, `DeviceError` if the run fails.
        """
        arrays = self._check_inputs(inputs)
        results = self._empty()
        with self._lock:
            sources, targets = self._bind(arrays, results)
            status = self._library.bnn_run(self._alive(), sources, targets)
            if status != capi.OK:
                self._check(status)
        return dict(zip(self._names, results, strict=True))

    def run_many(self, samples: Sequence[Any]) -> list[dict[str, np.ndarray]]:
        """`run` for each of `samples`, one after the other."""
        return [self.run(sample) for sample in samples]

    def profile(self, inputs: Any, repeat: int = 1) -> tuple[LayerTime, ...]:
        """Run the model `repeat` times and return the median time of every kernel call.

        Rows are in execution order; several may have the same `output` (packing, then the conv).
        Calls of another family of kernels than `self.kernels` are left out.
        Raises what `run` raises.
        """
        if repeat < 1:
            raise UsageError(f"repeat must be at least 1, not {repeat}")
        arrays = self._check_inputs(inputs)
        results = self._empty()
        layers = self.metadata.layers
        times = np.zeros((repeat, max(1, len(layers))))
        with self._lock:
            sources, targets = self._bind(arrays, results)
            for row in times:
                pointer = row.ctypes.data_as(ctypes.POINTER(ctypes.c_double))
                status = self._library.bnn_run_profiled(self._alive(), sources, targets, pointer)
                self._check(status)
        medians = np.median(times, axis=0)[: len(layers)]
        total = float(medians.sum()) or 1.0
        family = self.kernels
        return tuple(
            LayerTime(x.output, x.kind, x.kernel, float(ms), float(ms) / total)
            for x, ms in zip(layers, medians, strict=True)
            if x.runs_with(family)
        )

    def latencies(self, inputs: Any, repeat: int) -> np.ndarray:
        """Run the model `repeat` times and return each run's time in milliseconds, float64.

        What is timed is the C call alone: arrays are checked and allocated once. Raises what `run`
        raises.
        """
        arrays = self._check_inputs(inputs)
        results = self._empty()
        times = np.zeros(repeat)
        with self._lock:
            sources, targets = self._bind(arrays, results)
            context = self._alive()
            for i in range(repeat):
                start = time.perf_counter_ns()
                status = self._library.bnn_run(context, sources, targets)
                times[i] = time.perf_counter_ns() - start
                self._check(status)
        return times / 1e6

    def self_test(self) -> float:
        """Run the embedded test vector and return the largest absolute error.

        Raises `DeviceError` if it is too large, or if the model carries no test vector.
        """
        largest = ctypes.c_double()
        with self._lock:
            self._check(self._library.bnn_self_test(self._alive(), ctypes.byref(largest)))
        return largest.value

    def close(self) -> None:
        """Stop the threads and free the memory now; otherwise the garbage collector does."""
        with self._lock:
            self._finalizer()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _empty(self) -> list[np.ndarray]:
        """New arrays for the outputs."""
        return [np.empty(shape, dtype) for shape, dtype in self._forms]

    def _bind(self, arrays: list[np.ndarray], results: list[np.ndarray]) -> tuple[int, int]:
        """The tables for a run from `arrays` to `results`; the lock must be held."""
        self._sources.set(arrays)
        self._targets.set(results)
        return self._sources.table, self._targets.table

    def _create(self, files: ModelFiles, kernels: str | None) -> ctypes.c_void_p:
        if (self.inputs, self.outputs) != (self.metadata.inputs, self.metadata.outputs):
            raise FileError(
                "the .dab describes other inputs and outputs than the .so",
                node=str(files.dab),
                hint="compile again",
            )
        context = ctypes.c_void_p()
        if kernels is None:
            status = self._library.bnn_create(self.threads, ctypes.byref(context))
        else:
            name = kernels.encode()
            status = self._library.bnn_create_with(self.threads, name, ctypes.byref(context))
        if status != capi.OK:
            raise capi.error(
                status, self._library.bnn_status_text(status).decode(), node=str(files.so)
            )
        return context

    def _alive(self) -> ctypes.c_void_p:
        if not self._finalizer.alive:
            raise UsageError("the model is closed", node=str(self.path))
        return self._context

    def _check(self, status: int) -> None:
        if status == capi.OK:
            return
        text = self._library.bnn_error_message(self._context)
        text = text or self._library.bnn_status_text(status)
        raise capi.error(status, text.decode("utf-8", "replace"), node=str(self.path))

    def _infos(self, kind: str) -> tuple[TensorInfo, ...]:
        count = getattr(self._library, f"bnn_num_{kind}s")()
        get = getattr(self._library, f"bnn_{kind}")
        return tuple(get(i).contents.to_info() for i in range(count))


def load(
    path: str | os.PathLike[str],
    threads: int = 1,
    self_test: bool = False,
    kernels: str | None = None,
) -> Model:
    """Load a compiled model, given its .so or its .dab; both must lie side by side.

    Parameters
    ----------
    path: the .so or the .dab.
    threads: how many threads one run uses, 1 to 256; 1 starts none.
    self_test: run the test vector that compile embedded, and refuse a model that fails it.
    kernels: the family of kernels to run, one of `metadata.families`; None leaves it to the
        environment variable BNN_TVM_KERNELS, and else to this machine's cores.

    Raises `FileError` (missing, damaged, or files that don't belong together), `DeviceError` (built
    for another machine, or the self-test failed), `UsageError` (threads, kernels).
    """
    if not 1 <= threads <= capi.MAX_THREADS:
        raise UsageError(f"threads must be 1 to {capi.MAX_THREADS}, not {threads}")
    files = open_files(path)
    if files.metadata.runtime != "c":
        raise FileError(
            f"this model needs the {files.metadata.runtime} runtime",
            node=str(files.so),
            hint="load it with tvm.runtime.load_module, or compile without --runtime",
        )
    if files.header.machine != host_machine():
        raise DeviceError(
            f"the model is built for {files.header.machine}, this machine is {host_machine()}",
            node=str(files.so),
            hint="compile it with --target host, or run it on its device (verify uses qemu)",
        )
    if is_android(files.metadata.triple) != host_is_android():
        built, here = ("Linux", "Android") if host_is_android() else ("Android", "Linux")
        raise DeviceError(
            f"the model is built for {built}, this machine runs {here}",
            node=str(files.so),
            hint=f"compile it with --target {'arm64-android' if here == 'Android' else 'arm64'}, "
            "or run it on its device (verify uses qemu)",
        )
    check_family(files.metadata, kernels)
    model = Model(files, threads, kernels)
    if self_test:
        try:
            model.self_test()
        except BaseException:
            model.close()
            raise
    return model


def _release(library: ctypes.CDLL, context: ctypes.c_void_p) -> None:
    library.bnn_destroy(context)
    capi.close_library(library)
