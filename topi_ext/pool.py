"""Max and average pools over NHWC data. The default schedule serves them."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import te, tirx

# The rounding of a sum of so few halves is about that of its result.
FEW_HALVES = 16


def pooled_size(
    size: int, kernel: int, stride: int, dilation: int, before: int, after: int, ceil_mode: bool
) -> int:
    """Output extent of one axis.

    With `ceil_mode` a last window may hang over the end, but must start inside the input or the
    padding before it (the rule of onnxruntime and PyTorch).
    Raises ValueError if the window does not fit into the padded input.
    """
    span = size + before + after - dilation * (kernel - 1) - 1
    if span < 0:
        raise ValueError(f"a window of {kernel} does not fit into {size} + {before} + {after}")
    count = (-(-span // stride) if ceil_mode else span // stride) + 1
    if ceil_mode and (count - 1) * stride >= size + before:
        count -= 1
    return count


def max_pool2d_nhwc(
    data: te.Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    pads: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
) -> te.Tensor:
    """Maximum over windows of data [n, h, w, c], any dtype: [n, ho, wo, c].

    pads: top, left, bottom, right; padded taps never win.
    """
    window = _Window(data, kernel, stride, pads, dilation, ceil_mode)
    lowest = tirx.min_value(data.dtype)
    return te.compute(
        window.out_shape,
        lambda n, y, x, c: te.max(window.tap(n, y, x, c, lowest), axis=window.axes),
        name="max_pool2d",
    )


def or_pool2d_nhwc(
    data: te.Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    pads: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
) -> te.Tensor:
    """Bitwise OR over windows of unsigned data [n, h, w, c]: [n, ho, wo, c].

    pads: top, left, bottom, right; padded taps count as 0.
    """
    window = _Window(data, kernel, stride, pads, dilation, ceil_mode)
    zero = tirx.const(0, data.dtype)
    either = te.comm_reducer(lambda a, b: a | b, lambda t: tirx.const(0, t), name="either")
    return te.compute(
        window.out_shape,
        lambda n, y, x, c: either(window.tap(n, y, x, c, zero), axis=window.axes),
        name="or_pool2d",
    )


def avg_pool2d_nhwc(
    data: te.Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    pads: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    count_include_pad: bool = False,
    ceil_mode: bool = False,
) -> te.Tensor:
    """Mean over windows of float data [n, h, w, c]: [n, ho, wo, c].

    Halves are summed in float32, except few of them: their shares of the mean, which cannot
    overflow, are summed as they are.

    pads: top, left, bottom, right. The divisor is the number of taps inside the input, or, with
    count_include_pad, inside the padded input (a window that ceil_mode lets hang over the padding
    counts only what is inside).
    """
    window = _Window(data, kernel, stride, pads, dilation, ceil_mode)
    zero = tirx.const(0, data.dtype)
    wide = "float32" if data.dtype == "float16" else data.dtype
    anywhere = tirx.Var("at", "int32")
    share = window.inverse_count(anywhere, anywhere, count_include_pad, data.dtype)
    if wide != data.dtype and isinstance(share, tirx.FloatImm) and window.taps <= FEW_HALVES:
        return te.compute(
            window.out_shape,
            lambda n, y, x, c: te.sum(window.tap(n, y, x, c, zero) * share, axis=window.axes),
            name="avg_pool2d",
        )
    total = te.compute(
        window.out_shape,
        lambda n, y, x, c: te.sum(window.tap(n, y, x, c, zero).astype(wide), axis=window.axes),
        name="pool_sum",
    )

    def mean(n, y, x, c):  # type: ignore[no-untyped-def]
        inverse = window.inverse_count(y, x, count_include_pad, wide)
        return (total[n, y, x, c] * inverse).astype(data.dtype)

    return te.compute(window.out_shape, mean, name="avg_pool2d")


class _Window:
    """Index arithmetic of one pool."""

    def __init__(
        self,
        data: te.Tensor,
        kernel: Sequence[int],
        stride: Sequence[int],
        pads: Sequence[int],
        dilation: Sequence[int],
        ceil_mode: bool,
    ) -> None:
        self.data = data
        self.kernel, self.stride, self.dilation = kernel, stride, dilation
        self.before, self.after = pads[:2], pads[2:]
        n, h, w, c = (int(extent) for extent in data.shape)
        self.size = (h, w)
        ho, wo = (
            pooled_size(
                self.size[axis],
                kernel[axis],
                stride[axis],
                dilation[axis],
                self.before[axis],
                self.after[axis],
                ceil_mode,
            )
            for axis in (0, 1)
        )
        self.out_shape = (n, ho, wo, c)
        self.taps = kernel[0] * kernel[1]
        self.axes = [te.reduce_axis((0, kernel[0]), "ky"), te.reduce_axis((0, kernel[1]), "kx")]

    def tap(self, n, y, x, c, outside):  # type: ignore[no-untyped-def]
        """One input of the window, or `outside` where it lies in the padding."""
        row, column = (
            at * self.stride[axis] + self.axes[axis] * self.dilation[axis] - self.before[axis]
            for axis, at in ((0, y), (1, x))
        )
        conditions = []
        for axis, at in ((0, row), (1, column)):
            if self.before[axis]:
                conditions.append(at >= 0)
            if self._reach(axis) > self.size[axis]:
                conditions.append(at < self.size[axis])
        value = self.data[n, row, column, c]
        return tirx.if_then_else(tirx.all(*conditions), value, outside) if conditions else value

    def inverse_count(self, y, x, include_pad: bool, dtype: str):  # type: ignore[no-untyped-def]
        """1 / number of counted taps of the window of output row y and column x, as `dtype`."""
        count = tirx.const(1, "int32")
        for axis, at in ((0, y), (1, x)):
            count = count * self._axis_count(axis, at, include_pad)
        if isinstance(count, tirx.IntImm):
            return tirx.const(1.0 / int(count), dtype)
        return tirx.const(1, dtype) / count.astype(dtype)

    def _reach(self, axis: int) -> int:
        """One past the last input index that any window touches."""
        last = (self.out_shape[1 + axis] - 1) * self.stride[axis] - self.before[axis]
        return last + (self.kernel[axis] - 1) * self.dilation[axis] + 1

    def _axis_count(self, axis: int, at, include_pad: bool):  # type: ignore[no-untyped-def]
        kernel, step = self.kernel[axis], self.dilation[axis]
        low = -self.before[axis] if include_pad else 0
        high = self.size[axis] + (self.after[axis] if include_pad else 0)
        if (include_pad or not self.before[axis]) and self._reach(axis) <= high:
            return tirx.const(kernel, "int32")
        first = at * self.stride[axis] - self.before[axis]
        # Taps first + k*step with low <= tap < high, k in [0, kernel).
        skipped = tirx.max(0, tirx.floordiv(low - first + step - 1, step))
        beyond = tirx.min(kernel, tirx.floordiv(high - first + step - 1, step))
        return tirx.max(beyond - skipped, 1)
