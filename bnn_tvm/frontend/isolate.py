"""Try native code on a stranger's model in a child first: an abort or a hang stays there.

onnx's shape inference and version converter are C++; a hostile file can make them fail an
assertion, overflow the stack or run for minutes, none of which Python can catch.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import resource
import select
import signal
import warnings
from collections.abc import Callable

from bnn_tvm.errors import ModelError

TIME_LIMIT_S = 60.0
_HINT = "the file is damaged or made to harm; export the model again"


def try_out(work: Callable[[], object], what: str, time_limit_s: float = TIME_LIMIT_S) -> None:
    """Run `work` in a forked child and return if it ended by itself.

    Python exceptions of `work` end it too: the caller meets them again in its own call. Where the
    system has no fork, nothing is tried.

    Raises
    ------
    ModelError: the child was killed by a signal (an abort, a crash), or ran over `time_limit_s`
        seconds. `what` says what it was doing: "shape inference".
    """
    if not hasattr(os, "fork"):
        return
    read_end, write_end = os.pipe()
    with warnings.catch_warnings():
        # Other libraries' threads are not there in the child, and nothing in it waits for them.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os.close(read_end)
        _in_child(work)
    os.close(write_end)
    try:
        # The pipe closes when the child ends, however it does.
        ended, _, _ = select.select([read_end], [], [], time_limit_s)
        if not ended:
            os.kill(child, signal.SIGKILL)
    finally:
        os.close(read_end)
        _, status = os.waitpid(child, 0)
    if not ended:
        raise ModelError(f"{what} did not end within {time_limit_s:.0f} s", hint=_HINT)
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        raise ModelError(f"{what} crashed on this model ({name})", hint=_HINT)


def _in_child(work: Callable[[], object]) -> None:
    code = 0
    faulthandler.disable()  # a crash here is an answer, not to be reported
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        with contextlib.suppress(Exception):
            work()
    except BaseException:
        code = 1
    finally:
        os._exit(code)
