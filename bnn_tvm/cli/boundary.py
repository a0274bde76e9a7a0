"""The error boundary: whatever happens in a command becomes an exit code and a message.

Errors with a cause the user can act on are printed without a traceback (`--debug` shows it);
under `--json` they are one object on stdout. Anything unforeseen is a bug and ends with 70.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import click

from bnn_tvm.cli.console import print_error, print_json
from bnn_tvm.errors import BnnError, FileError, UsageError

INTERRUPTED = 130
BROKEN_PIPE = 141


def execute(command: click.Command, args: Sequence[str], prog_name: str) -> int:
    """Run `command` on `args` and return the exit code."""
    flags = args[: args.index("--")] if "--" in args else args
    as_json, debug = "--json" in flags, "--debug" in flags
    try:
        result = command.main(list(args), prog_name=prog_name, standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except BrokenPipeError:
        _abandon_stdout()
        return BROKEN_PIPE
    except SystemExit:
        # Outside its standalone mode click exits for a broken pipe alone, with a 1, which would
        # mean "the answer is no".
        _abandon_stdout()
        return BROKEN_PIPE
    except (KeyboardInterrupt, click.Abort):
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    except Exception as raised:
        error = as_bnn_error(raised)
        if debug or error.code == BnnError.code:
            traceback.print_exception(raised)
        try:
            if as_json:
                print_json({"error": error.as_dict()})
            else:
                print_error(error)
            sys.stdout.flush()
        except BrokenPipeError:
            _abandon_stdout()
        return error.code


def as_bnn_error(raised: Exception) -> BnnError:
    """`raised` as an error of ours: click's and the file system's are the user's, others bugs."""
    if isinstance(raised, BnnError):
        return raised
    if isinstance(raised, click.ClickException):
        return _from_click(raised)
    if isinstance(raised, OSError) and raised.filename is not None:
        return FileError(
            raised.strerror or str(raised),
            node=str(raised.filename),
            hint="check that the path exists, is readable or writable, and that there is room",
        )
    return BnnError(
        f"{type(raised).__name__}: {raised}",
        hint="this is a bug in bnn_tvm; please report it with the command and the text above",
    )


def _from_click(raised: click.ClickException) -> UsageError:
    node, hint = None, None
    if isinstance(raised, click.UsageError) and raised.ctx is not None:
        hint = f"see {raised.ctx.command_path} --help"
    if isinstance(raised, click.NoSuchOption):
        node = raised.option_name
        if raised.possibilities:
            hint = "did you mean " + " or ".join(sorted(raised.possibilities)) + "?"
    elif isinstance(raised, click.BadParameter) and raised.param is not None:
        node = raised.param.opts[0]
    return UsageError(raised.format_message().rstrip(), node=node, hint=hint)


def _abandon_stdout() -> None:
    """Point stdout at nothing: the interpreter flushes it once more on exit."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
