"""Every way in which a command can end: exit code, stream, text."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import click
import pytest

from bnn_tvm import errors
from bnn_tvm.cli.boundary import BROKEN_PIPE, INTERRUPTED, execute

CODES = {
    errors.UsageError: (2, "usage"),
    errors.ModelError: (3, "model"),
    errors.ToolchainError: (4, "toolchain"),
    errors.DeviceError: (5, "device"),
    errors.FileError: (6, "file"),
}


def raising(error: BaseException) -> click.Command:
    @click.command("x")
    @click.option("--json", "as_json", is_flag=True)
    @click.option("--debug", is_flag=True)
    def command(as_json: bool, debug: bool) -> None:
        raise error

    return command


@pytest.mark.parametrize("kind", CODES, ids=lambda kind: kind.__name__)
def test_errors_of_ours_have_their_code_place_and_hint(capsys, kind) -> None:
    code, name = CODES[kind]
    command = raising(kind("it broke", node="conv1", hint="mend it"))

    assert execute(command, [], "x") == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: it broke [conv1]\n  hint: mend it\n"

    assert execute(command, ["--json"], "x") == code
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out) == {
        "error": {
            "code": code,
            "kind": name,
            "message": "it broke",
            "node": "conv1",
            "hint": "mend it",
        }
    }


def test_debug_shows_the_traceback(capsys) -> None:
    assert execute(raising(errors.ModelError("it broke")), ["--debug"], "x") == 3
    err = capsys.readouterr().err
    assert "Traceback" in err and err.endswith("error: it broke\n")


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_anything_else_is_a_bug(capsys, flags) -> None:
    assert execute(raising(ZeroDivisionError("oh")), flags, "x") == 70
    out, err = capsys.readouterr()
    assert "Traceback" in err
    text = out if flags else err
    assert "ZeroDivisionError: oh" in text and "a bug in bnn_tvm" in text


def test_the_file_system_is_not_a_bug(capsys) -> None:
    assert execute(raising(PermissionError(13, "Permission denied", "/x/y")), [], "x") == 6
    assert "error: Permission denied [/x/y]" in capsys.readouterr().err


def test_usage_errors_of_the_parser_are_json_too(cli) -> None:
    error = cli("compile", "--json", "--nonsense", "m.onnx")
    assert error.code == 2
    assert error.json["error"]["kind"] == "usage"
    assert "--nonsense" in error.json["error"]["message"]
    assert error.err == ""


def test_interrupt_ends_quietly(capsys) -> None:
    assert execute(raising(KeyboardInterrupt()), [], "x") == INTERRUPTED
    assert capsys.readouterr().err.strip() == "interrupted"


def test_a_reader_that_leaves_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "bnn_tvm.targets"], stdout=closed, stderr=subprocess.PIPE
        )
    assert done.returncode == BROKEN_PIPE
    assert done.stderr == b""


def test_control_c_leaves_nothing_behind(tmp_path, digits) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "bnn_tvm.compile", str(digits), "-o", str(tmp_path / "m")],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as process:
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        err = process.communicate()[1]
    # CPython ends by the signal itself where it hit inside an exec(); a shell shows 130 for both.
    assert process.returncode in (INTERRUPTED, -signal.SIGINT), err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []
