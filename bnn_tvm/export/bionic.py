"""What a model.so may ask of Android: the functions, and how to link without Android's NDK.

zig knows Android's calling convention but carries no headers and no libraries for bionic, Android's
C library. Little of it is needed: `runtime/bionic` declares what the C runtime uses, and the
linker gets libraries that hold nothing but the names below. So a library that would ask Android
for anything else is refused when it is linked, and not by a phone.

All of these are in 64-bit bionic since API level 21 (Android 5.0), its first: they carry no later
level in `libc/libc.map.txt` and `libm/libm.map.txt` of the Android Open Source Project. They are
asked for without a version, which Android's linker looks up by name.
"""

from __future__ import annotations

#: zig's own Android target takes compiler-rt's helpers for atomics, whatever the flags say. Code
#: for "none" follows the same rules on arm64, but for the register x18, which Android keeps.
ZIG_TARGET = "aarch64-linux-none"
#: A thread-local variable would be an undefined symbol, which the linker before API level 29 lacks.
COMPILE_FLAGS = ("-ffixed-x18", "-femulated-tls", "-DBNN_THREAD_KEY")
#: Pages of 16 KiB (Android 15 on) load where pages of 4 KiB do; the linker before API level 23
#: reads the old hash table alone; libm.so is not asked for in vain.
LINK_FLAGS = ("-Wl,-z,max-page-size=16384", "-Wl,--hash-style=both", "-Wl,--as-needed")

_C_CODE = {
    "calloc": "contexts, and their tables of pointers",
    "free": "contexts and aligned memory",
    "posix_memalign": "aligned memory for tensors; aligned_alloc came with API level 28",
    "memcpy": "copies in the runtime; LLVM makes it of loops and assignments",
    "strcmp": "names of CPU features and dtypes",
    "strchr": "keys of /proc/cpuinfo",
    "strtoul": "numbers in /proc/cpuinfo and sysfs",
    "fopen": "which cores there are: /proc/cpuinfo and sysfs",
    "fgets": "which cores there are",
    "fclose": "which cores there are",
    "sched_getaffinity": "which cores the thread may run on",
    "getenv": "BNN_TVM_KERNELS",
    "snprintf": "error messages",
    "clock_gettime": "times of layers",
    "getauxval": "which instruction sets this processor has",
    "pthread_create": "threads of a context; pthreads are part of libc.so",
    "pthread_join": "the end of a context",
    "pthread_attr_init": "the size of a thread's stack",
    "pthread_attr_setstacksize": "the size of a thread's stack",
    "pthread_attr_destroy": "the size of a thread's stack",
    "pthread_mutex_init": "waiting for work",
    "pthread_mutex_lock": "waiting for work",
    "pthread_mutex_unlock": "waiting for work",
    "pthread_mutex_destroy": "waiting for work",
    "pthread_cond_init": "waiting for work",
    "pthread_cond_wait": "waiting for work",
    "pthread_cond_signal": "the last thread is done",
    "pthread_cond_broadcast": "there is work",
    "pthread_cond_destroy": "waiting for work",
    "pthread_key_create": "the thread's pool; thread-local variables came with API level 29",
    "pthread_key_delete": "the library is unloaded",
    "pthread_getspecific": "the thread's pool",
    "pthread_setspecific": "the thread's pool",
}
_KERNELS = {
    "memmove": "LLVM makes it of loops",
    "memset": "LLVM makes it of loops",
    "ldexp": "of a double; bionic has it in libc.so",
}
# What TVM and LLVM make of the mathematical functions, each for float and double. Roots, rounding,
# minima and fused products are instructions; tanh and sigmoid become exp, tan becomes sin and cos.
_MATHEMATICS = (
    *("acos", "acosh", "asin", "asinh", "atan", "atan2", "cos", "cosh", "erf", "exp", "exp2"),
    *("fmod", "hypot", "log", "log10", "log1p", "log2", "nextafter", "pow", "sin", "sincos"),
    "sinh",
)

#: Library of the device -> function -> what it is for. Nothing else may be undefined in a model.so.
SYMBOLS: dict[str, dict[str, str]] = {
    "libc.so": {**_C_CODE, **_KERNELS},
    "libm.so": {
        "ldexpf": "mathematics in kernels",
        **{name + kind: "mathematics in kernels" for name in _MATHEMATICS for kind in ("", "f")},
    },
}


def stub_assembly(library: str) -> str:
    """Assembly of a library that has the names of `SYMBOLS[library]`, to link with."""
    names = sorted(SYMBOLS[library])
    lines = [f"    .globl {name}\n    .type {name},%function\n{name}:\n" for name in names]
    return "    .text\n" + "".join(lines)
