"""Storing vectors of floats in fewer bytes: as they are, in half precision, or as integers of 8 or 4 bits.

Integers are a grid per dimension: z is stored as q = round((z - low) / step), clipped to 0 ... 2^bits - 1, and read as
low + q step. The grid is fixed once, from examples, with room for all but the rarest of them. What lies in it comes back within
half a step, and zero comes back as zero where no example was negative.
"""

import math
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

Dtype = Literal["float32", "float16", "uint8", "uint4"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
BITS = {"uint8": 8, "uint4": 4}
# Share of the examples beyond either end of a grid: the fewer its steps, the less far they should reach.
OUTSIDE = {"uint8": 0.0005, "uint4": 0.005}
NARROWEST = 1 / 16  # the least width of a dimension's grid, of the median width: units that were silent may speak later

EXAMPLES = 2_000  # observations that a grid is made from
EXAMPLES_BYTES = 64_000_000  # and how much they may be

Stored = NDArray[Any]


def layout(kind: Dtype, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """dtype and shape of what is stored of one float32 array of `shape`."""
    if kind == "uint4":
        return "uint8", (-(-math.prod(shape) // 2),)  # two to a byte
    return kind, shape


def examples(kind: Dtype, shape: tuple[int, ...], available: int, copies: int) -> int:
    """How many of `available` observations, `copies` arrays of `shape` each, make the grid; none where there is no grid."""
    if kind not in BITS:
        return 0
    return min(available, EXAMPLES, max(32, EXAMPLES_BYTES // (4 * math.prod(shape) * copies)))


class Codec:
    """Arrays [..., *shape] float32 to what is stored of them, and back."""

    def __init__(self, kind: Dtype, shape: tuple[int, ...], grid: tuple[torch.Tensor, torch.Tensor] | None = None) -> None:
        """grid: low and step [shape[0]] of each dimension (channel, where shape is [C, H, W]); integers need one."""
        self.kind, self.shape, self.size = kind, shape, math.prod(shape)
        self.written = self.clipped = 0  # numbers, and those of them that lay outside the grid
        if kind in BITS:
            if grid is None:
                raise ValueError(f"{kind} needs a grid")
            self.low, self.step = (one.float().view(-1, *[1] * (len(shape) - 1)) for one in grid)
            self.top = float(2 ** BITS[kind] - 1)

    @classmethod
    def fit(cls, kind: Dtype, examples: torch.Tensor) -> "Codec":
        """The codec for arrays like `examples` [n, *shape], on a grid that suits them."""
        return cls(kind, tuple(examples.shape[1:]), grid(examples, kind) if kind in BITS else None)

    def encode(self, z: torch.Tensor) -> Stored:
        """z: [..., *shape] float32. Counts what it clips."""
        z = z.detach().cpu()
        if self.kind not in BITS:
            if self.kind == "float16":
                z = z.clamp(-65504, 65504).half()
            plain: Stored = z.numpy()
            return plain
        q = ((z - self.low) / self.step).round_()
        self.written += q.numel()
        self.clipped += int(((q < 0) | (q > self.top)).sum())
        q = q.clamp_(0, self.top).to(torch.uint8)
        if self.kind == "uint4":
            q = q.flatten(q.dim() - len(self.shape))
            if q.shape[-1] % 2:
                q = torch.nn.functional.pad(q, (0, 1))
            first, second = q.chunk(2, dim=-1)  # halves, not neighbours: both directions are then a few whole-array operations
            q = first | (second << 4)
        integers: Stored = q.numpy()
        return integers

    def decode(self, stored: Stored) -> torch.Tensor:
        """What was encoded, [..., *shape] float32."""
        if self.kind == "uint4":
            *batch, half = stored.shape
            integers = np.empty((*batch, 2 * half), np.uint8)
            np.bitwise_and(stored, 15, out=integers[..., :half])
            np.right_shift(stored, 4, out=integers[..., half:])
            stored = integers[..., : self.size].reshape(*batch, *self.shape)
        q = torch.from_numpy(stored).float()
        return torch.addcmul(self.low, q, self.step, out=q) if self.kind in BITS else q

    def get_state(self) -> dict[str, Any]:
        """Everything, as plain values and tensors."""
        grid = {"low": self.low.flatten(), "step": self.step.flatten()} if self.kind in BITS else {}
        return {"kind": self.kind, "shape": list(self.shape), "written": self.written, "clipped": self.clipped, **grid}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Codec":
        """The inverse of `get_state`."""
        kind = state["kind"]
        grid = (torch.tensor(state["low"]), torch.tensor(state["step"])) if kind in BITS else None
        codec = cls(kind, tuple(state["shape"]), grid)
        codec.written, codec.clipped = state["written"], state["clipped"]
        return codec


def grid(examples: torch.Tensor, kind: Dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """low and step [dimensions] for examples [n, dimensions] or [n, C, H, W], whose dimensions are channels.

    A grid spans all but `OUTSIDE` of a dimension's examples at either end. Where none is negative (after a ReLU) it begins at
    0, and the positive ones alone decide where it ends, so that a unit that seldom speaks is not taken for silent.
    """
    outside, one_sided = OUTSIDE[kind], bool((examples >= 0).all())
    low, high = torch.zeros(2, examples.shape[1], dtype=torch.float64)
    for i, of_one in enumerate(examples.detach().transpose(0, 1)):  # one dimension after the other: sorting takes memory
        x = of_one.flatten().cpu().double()
        x = (x[x > 0] if one_sided else x).sort().values
        if len(x):
            last = len(x) - 1
            high[i], low[i] = x[round(last * (1 - outside))], 0.0 if one_sided else x[round(last * outside)]
    width = high - low
    known = width[width > 0]
    least = float(known.median()) * NARROWEST if len(known) else 1.0
    width = width.clamp(min=least)
    return low.float(), (width / (2 ** BITS[kind] - 1)).float()
