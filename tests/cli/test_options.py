"""Options: every flag reaches its field, wrong values are refused with a remedy."""

from __future__ import annotations

import dataclasses

import click
import pytest

from bnn_tvm.cli.arguments import compile_flags, options_from, parse_shape
from bnn_tvm.errors import UsageError
from bnn_tvm.options import CompileOptions, did_you_mean


def parse(*args: str) -> CompileOptions:
    @click.command()
    @compile_flags
    def command(**flags: object) -> CompileOptions:
        return options_from(flags)

    return command.main(list(args), standalone_mode=False)


def test_no_flags_are_the_defaults() -> None:
    assert parse() == CompileOptions()


FLAGS = {
    "target": (["--target", "arm64"], "arm64"),
    "mcpu": (["--mcpu", "cortex-a53"], "cortex-a53"),
    "mattr": (["--mattr", "+dotprod,-sve"], ("+dotprod", "-sve")),
    "mode": (["--strict"], "strict"),
    "binary_convs": (["--binary-convs", "a, b"], ("a", "b")),
    "exclude_first_last": (["--exclude-first-last"], True),
    "binarize_first": (["--binarize-first"], True),
    "dabnn_compatible": (["--dabnn-compatible"], True),
    "sign_zero": (["--sign-zero", "minus"], "minus"),
    "runtime": (["--runtime", "tvm"], "tvm"),
    "float16": (["--float16"], True),
    "winograd": (["--no-winograd"], False),
    "cache": (["--no-cache"], False),
    "batch": (["--batch", "3"], 3),
    "shapes": (["--shape", "x=1,2", "--shape", "y=3"], (("x", (1, 2)), ("y", (3,)))),
}


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(CompileOptions)])
def test_every_field_has_a_flag(name: str) -> None:
    if name in ("binary_list", "dump"):
        flag = "--" + name.replace("_", "-")
        assert str(getattr(parse(flag, "some/path"), name)) == "some/path"
        return
    flags, value = FLAGS[name]
    assert getattr(parse(*flags), name) == value


def test_the_other_spelling_of_the_list() -> None:
    assert str(parse("--binary-convs-file", "f").binary_list) == "f"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--strict", "--moderate"], "--strict and --moderate exclude one another"),
        (["--binary-convs", "a", "--exclude-first-last"], "--binary-convs and --exclude-first-la"),
        (["--binary-convs", "a", "--binary-list", "f"], "--binary-list and --binary-convs exclu"),
        (["--batch", "0"], "the batch size must be a whole number from 1, not 0"),
        (["--shape", "1,2,3"], "'1,2,3' is no shape"),
        (["--shape", "x=1,b"], "'x=1,b' is no shape"),
        (["--shape", "x=1,0"], "the shape of input 'x' must be whole numbers from 1"),
        (["--shape", "x=1", "--shape", "x=2"], "input 'x' has two shapes"),
    ],
)
def test_wrong_values_are_usage_errors(args: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(*args)
    assert caught.value.message.startswith(message)
    assert caught.value.node and caught.value.hint


def test_wrong_values_from_python() -> None:
    with pytest.raises(UsageError, match=r"'agressive' is no mode.*\n.*mean aggressive"):
        CompileOptions(mode="agressive")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="is no sign-zero"):
        CompileOptions(sign_zero="zero")  # type: ignore[arg-type]


def test_equal_options_hash_equal() -> None:
    one = CompileOptions(shapes={"x": [1, 2]}, binary_convs=["a"], mattr="+dotprod")  # type: ignore[arg-type]
    two = CompileOptions(shapes=(("x", (1, 2)),), binary_convs=("a",), mattr=("+dotprod",))
    assert one == two and hash(one) == hash(two)


def test_dabnn_implies_its_sign_and_first_layer() -> None:
    options = CompileOptions(dabnn_compatible=True)
    assert options.sign_zero == "minus" and options.binarize_first


def test_names_with_equals_signs() -> None:
    assert parse_shape("a=b=1,2") == ("a=b", (1, 2))


def test_hints() -> None:
    assert did_you_mean("arm", ["arm64", "x86_64"]) == "did you mean arm64?"
    assert did_you_mean("zzz", ["b", "a"]) == "choose one of a, b"
