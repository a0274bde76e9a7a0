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
import threading
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
    child, interrupted = _fork()
    if child == 0:
        os.close(read_end)
        _in_child(work)
    try:
        os.close(write_end)
        if interrupted:
            raise KeyboardInterrupt
        # The pipe closes when the child ends, however it does.
        ended, _, _ = select.select([read_end], [], [], time_limit_s)
        if not ended:
            os.kill(child, signal.SIGKILL)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.close(read_end)
        _, status = os.waitpid(child, 0)
    if not ended:
        raise ModelError(f"{what} did not end within {time_limit_s:.0f} s", hint=_HINT)
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        raise ModelError(f"{what} crashed on this model ({name})", hint=_HINT)


def _fork() -> tuple[int, bool]:
    """`os.fork`, and whether Ctrl-C came meanwhile: in callbacks of the fork Python drops it."""
    caught: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    held = handler is signal.default_int_handler and (
        threading.current_thread() is threading.main_thread()
    )
    if held:
        signal.signal(signal.SIGINT, lambda number, frame: caught.append(number))
    try:
        with warnings.catch_warnings():
            # Other libraries' threads are not in the child, and nothing in it waits for them.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
    finally:
        if held:
            signal.signal(signal.SIGINT, handler)
    return child, bool(caught)


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
