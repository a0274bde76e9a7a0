"""Android's names of the C library on a machine with glibc, so that a model.so for Android loads.

What such a library asks for is in both (`bnn_tvm.export.bionic`), and asked for without a version;
types of which the size differs have room for either (`runtime/bionic/pthread.h`). Only the names
of the files differ: libc.so and libm.so, where glibc has libc.so.6, libm.so.6 and libpthread.so.0.
"""

from __future__ import annotations

from pathlib import Path

from bnn_tvm.export import bionic, link

# A function of each of glibc's libraries: the linker leaves out those of which nothing is used.
_SOURCE = """\
double exp(double);
void free(void *);
int pthread_join(unsigned long, void **);
#define HIDDEN __attribute__((visibility("hidden")))
HIDDEN void *const bnn_names[] = {(void *)exp, (void *)free, (void *)pthread_join};
"""


def link_names(folder: Path, zig_target: str) -> None:
    """Make libc.so and libm.so in `folder`, which lead to glibc's. Raises `ToolchainError`."""
    source = folder / "names.c"
    source.write_text(_SOURCE, encoding="ascii")
    for name in bionic.SYMBOLS:
        link.link_named(zig_target, source, folder / name, ["-lc", "-lm", "-lpthread"])
