"""Native code that dies or hangs on a model becomes an error, not the end of the process."""

from __future__ import annotations

import os
import signal
import time

import pytest

from bnn_tvm.errors import ModelError
from bnn_tvm.frontend.isolate import try_out


def test_an_abort_stays_in_the_child() -> None:
    with pytest.raises(ModelError, match=r"shape inference crashed on this model \(SIGABRT\)"):
        try_out(os.abort, "shape inference")


def test_a_hang_is_ended() -> None:
    begin = time.monotonic()
    with pytest.raises(ModelError, match="the conversion did not end within 0 s"):
        try_out(lambda: time.sleep(600), "the conversion", time_limit_s=0.3)
    assert time.monotonic() - begin < 60


def test_exceptions_are_left_to_the_callers_own_call() -> None:
    def fail() -> None:
        raise RuntimeError("met again in the parent")

    try_out(fail, "shape inference")


def test_nothing_of_the_child_reaches_the_parent(capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []

    def work() -> None:
        seen.append(1)
        os.write(1, b"noise")
        os.write(2, b"noise")

    try_out(work, "shape inference")
    assert not seen
    assert capfd.readouterr() == ("", "")


def test_no_child_and_no_file_is_left() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        try_out(lambda: None, "shape inference")
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_control_c_in_a_callback_of_the_fork_is_not_lost() -> None:
    armed = [True]
    os.register_at_fork(
        after_in_parent=lambda: armed and armed.pop() and signal.raise_signal(signal.SIGINT)
    )
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        try_out(lambda: time.sleep(600), "sleeping")
    assert time.monotonic() - begin < 60  # the child was not waited for
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    try_out(lambda: None, "nothing")
