"""The shape of one convolution, in the field's letters, as a value that prints and parses."""

from __future__ import annotations

import re
from dataclasses import dataclass

_CASE = re.compile(
    r"(?P<n>\d+)x(?P<h>\d+)x(?P<w>\d+)x(?P<ci>\d+)-k(?P<kh>\d+)x(?P<kw>\d+)x(?P<co>\d+)"
    r"-s(?P<sh>\d+)x(?P<sw>\d+)-d(?P<dh>\d+)x(?P<dw>\d+)"
    r"-p(?P<pt>\d+),(?P<pl>\d+),(?P<pb>\d+),(?P<pr>\d+)-g(?P<groups>\d+)-v(?P<value>-?[01])"
)


@dataclass(frozen=True)
class ConvParams:
    """Shape parameters of a 2-D convolution over NHWC data.

    `n, h, w, ci` is the input before padding, `kh, kw` the kernel, `co` the output channels.
    `stride` and `dilation` are (vertical, horizontal); `pads` is (top, left, bottom, right);
    `pad_value` is what a padded tap of the input counts as: -1, 0 or +1 (float convolutions
    use 0). A dense layer of k inputs, n outputs and r rows is `ConvParams.dense(r, k, n)`.

    `str(params)` is a case string which `ConvParams.parse` reads back.

    Raises
    ------
    ValueError: a size is not positive, the groups do not divide the channels, or the kernel does
        not fit into the padded input.
    """

    n: int
    h: int
    w: int
    ci: int
    co: int
    kh: int
    kw: int
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1
    pad_value: int = 0

    def __post_init__(self) -> None:
        sizes = (self.n, self.h, self.w, self.ci, self.co, self.kh, self.kw, self.groups)
        if min(sizes + self.stride + self.dilation) < 1 or min(self.pads) < 0:
            raise ValueError(f"sizes must be positive and pads not negative: {self}")
        if self.ci % self.groups or self.co % self.groups:
            raise ValueError(f"{self.groups} groups do not divide {self.ci} and {self.co} channels")
        if self.pad_value not in (-1, 0, 1):
            raise ValueError(f"pad_value must be -1, 0 or 1, not {self.pad_value}")
        if self.ho < 1 or self.wo < 1:
            raise ValueError(f"the kernel is larger than the padded input: {self}")

    @classmethod
    def dense(cls, rows: int, k: int, n: int) -> ConvParams:
        """A dense layer as a 1x1 convolution over a map of one row: [rows, k] x [k, n]."""
        return cls(n=1, h=1, w=rows, ci=k, co=n, kh=1, kw=1)

    @classmethod
    def parse(cls, case: str) -> ConvParams:
        """Read what `str(params)` printed. Raises ValueError for anything else."""
        match = _CASE.fullmatch(case)
        if match is None:
            raise ValueError(f"not a convolution case: {case!r}")
        v = {key: int(text) for key, text in match.groupdict().items()}
        return cls(
            n=v["n"],
            h=v["h"],
            w=v["w"],
            ci=v["ci"],
            co=v["co"],
            kh=v["kh"],
            kw=v["kw"],
            stride=(v["sh"], v["sw"]),
            dilation=(v["dh"], v["dw"]),
            pads=(v["pt"], v["pl"], v["pb"], v["pr"]),
            groups=v["groups"],
            pad_value=v["value"],
        )

    def __str__(self) -> str:
        return (
            f"{self.n}x{self.h}x{self.w}x{self.ci}-k{self.kh}x{self.kw}x{self.co}"
            f"-s{self.stride[0]}x{self.stride[1]}-d{self.dilation[0]}x{self.dilation[1]}"
            f"-p{','.join(map(str, self.pads))}-g{self.groups}-v{self.pad_value}"
        )

    @property
    def hp(self) -> int:
        """Height of the padded input."""
        return self.h + self.pads[0] + self.pads[2]

    @property
    def wp(self) -> int:
        """Width of the padded input."""
        return self.w + self.pads[1] + self.pads[3]

    @property
    def ho(self) -> int:
        """Output height."""
        return (self.hp - self.dilation[0] * (self.kh - 1) - 1) // self.stride[0] + 1

    @property
    def wo(self) -> int:
        """Output width."""
        return (self.wp - self.dilation[1] * (self.kw - 1) - 1) // self.stride[1] + 1

    @property
    def pixels(self) -> int:
        """Output pixels of the whole batch."""
        return self.n * self.ho * self.wo

    @property
    def cig(self) -> int:
        """Input channels of one group."""
        return self.ci // self.groups

    @property
    def cog(self) -> int:
        """Output channels of one group."""
        return self.co // self.groups

    @property
    def taps(self) -> int:
        """Multiply-accumulates of one output element, padded taps included."""
        return self.kh * self.kw * self.cig

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the whole convolution, padded taps included."""
        return self.pixels * self.co * self.taps

    @property
    def padded(self) -> bool:
        """Whether any padding is added."""
        return any(self.pads)

    @property
    def out_shape(self) -> tuple[int, int, int, int]:
        """Shape of the output, NHWC."""
        return (self.n, self.ho, self.wo, self.co)

    def words(self, word_bits: int) -> int:
        """Words of `word_bits` bits that hold the input channels of one group."""
        return -(-self.cig // word_bits)
