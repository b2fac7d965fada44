"""Store arrays of floats in fewer bytes: as they are, in half precision, or as integers of 8 or 4 bits.

Integers lie on a grid, one for each dimension: z is stored as q = round((z - low) / step), clipped to 0 ... 2^bits - 1, and
read as low + q * step. The grid is made once, from examples, and spans all but the rarest of them. A number inside the grid
comes back with an error of at most step / 2. Where no example was negative, 0 comes back as 0.
"""

import math
from typing import Any, Literal, get_args

import numpy as np
import torch

Dtype = Literal["float32", "float16", "uint8", "uint4"]
"""Say how the numbers of an embedding are stored: in 4, 2, 1 or half a byte each."""
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
BITS = {"uint8": 8, "uint4": 4}
# Share of the examples that may lie beyond either end of a grid. A grid of few steps leaves out more, to keep its steps small.
OUTSIDE = {"uint8": 0.0005, "uint4": 0.005}
# The least width of a dimension's grid, as a share of the median width: a unit that is silent in the examples may wake later.
NARROWEST = 1 / 16

EXAMPLES = 2_000  # the most observations that a grid is made from
EXAMPLES_BYTES = 64_000_000  # the most bytes of their float32 arrays, from `LEAST` observations on
LEAST = 32  # observations that a grid needs: of fewer, too much of what comes later lies outside it


def require_dtype(dtype: str) -> None:
    """Raise ValueError for any dtype but `DTYPES`."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype is one of {', '.join(DTYPES)}, not {dtype!r}")


def layout(dtype: Dtype, shape: tuple[int, ...]) -> tuple[torch.dtype, tuple[int, ...]]:
    """Return the PyTorch dtype and the shape in which a float32 array of `shape` is stored as `dtype`.

    Raises ValueError for any dtype but `DTYPES`.
    """
    require_dtype(dtype)
    if dtype == "uint4":
        return torch.uint8, (-(-math.prod(shape) // 2),)  # two to a byte
    plain: torch.dtype = getattr(torch, dtype)
    return plain, shape


def examples(dtype: Dtype, shape: tuple[int, ...], available: int, copies: int) -> int:
    """Count the observations, of `available` ones, that the grid is made from: 0 where `dtype` needs no grid.

    shape, copies: each observation gives `copies` float32 arrays of `shape`.
    """
    if dtype not in BITS:
        return 0
    return min(available, EXAMPLES, max(LEAST, EXAMPLES_BYTES // (4 * math.prod(shape) * copies)))


class Codec:
    """Encode float32 arrays [..., *shape] as `dtype`, and decode them."""

    def __init__(self, dtype: Dtype, shape: tuple[int, ...], grid: tuple[torch.Tensor, torch.Tensor] | None = None) -> None:
        """Make a codec for arrays of `shape`.

        grid: low and step, float32 [shape[0]] each: a pair for each dimension, or for each channel where shape is (C, H, W).
        Raises ValueError for integers without a grid.
        """
        self.dtype, self.shape, self.size = dtype, shape, math.prod(shape)
        self.written = self.clipped = 0  # how many numbers were encoded, and how many of them lay outside the grid
        if dtype in BITS:
            if grid is None:
                raise ValueError(f"{dtype} needs a grid")
            self.low, self.step = (one.float().view(-1, *[1] * (len(shape) - 1)) for one in grid)
            self.top = float(2 ** BITS[dtype] - 1)
            self._there = dict[torch.device, tuple[torch.Tensor, torch.Tensor]]()  # the grid on every device that needed it

    @classmethod
    def fit(cls, dtype: Dtype, examples: torch.Tensor) -> "Codec":
        """Make a codec for arrays like `examples` [n, *shape] float32; integers get the grid that `grid` makes from them."""
        return cls(dtype, tuple(examples.shape[1:]), grid(examples, dtype) if dtype in BITS else None)

    def encode(self, z: torch.Tensor) -> torch.Tensor:
        """Encode `z` [..., *shape] float32 as a tensor [..., *stored], of the dtype and shape that `layout` gives.

        It lies where `z` does. Numbers outside the grid are clipped to it and counted in `clipped`.
        """
        z = z.detach()
        if self.dtype not in BITS:
            return z.clamp(-65504, 65504).half() if self.dtype == "float16" else z
        low, step = self._on(z.device)
        q = ((z - low) / step).round_()
        self.written += q.numel()
        self.clipped += int(((q < 0) | (q > self.top)).sum())
        q = q.clamp_(0, self.top).to(torch.uint8)
        if self.dtype == "uint4":
            q = q.flatten(q.dim() - len(self.shape))
            if q.shape[-1] % 2:
                q = torch.nn.functional.pad(q, (0, 1))
            first, second = q.chunk(2, dim=-1)  # halves, not neighbours: a few whole-array operations then do
            q = first | (second << 4)
        return q

    def decode(self, stored: torch.Tensor) -> torch.Tensor:
        """Decode what `encode` returned: [..., *shape] float32, where `stored` lies."""
        if self.dtype == "uint4":
            *batch, half = stored.shape
            integers = torch.empty((*batch, 2 * half), dtype=torch.uint8, device=stored.device)
            torch.bitwise_and(stored, 15, out=integers[..., :half])
            torch.bitwise_right_shift(stored, 4, out=integers[..., half:])
            stored = integers[..., : self.size].reshape(*batch, *self.shape)
        if self.dtype not in BITS:
            return stored.float()
        low, step = self._on(stored.device)
        q = stored.float()
        return torch.addcmul(low, q, step, out=q)

    def _on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return low and step on `device`. One thread may encode on a GPU while another decodes in the computer's memory."""
        if device not in self._there:
            self._there[device] = self.low.to(device), self.step.to(device)
        return self._there[device]

    def get_state(self) -> dict[str, Any]:
        """Return the whole state, as plain values and tensors."""
        grid = {"low": self.low.flatten().cpu(), "step": self.step.flatten().cpu()} if self.dtype in BITS else {}
        return {"kind": self.dtype, "shape": list(self.shape), "written": self.written, "clipped": self.clipped, **grid}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Codec":
        """Make a codec from what `get_state` returned."""
        dtype = state["kind"]
        grid = (torch.tensor(np.asarray(state["low"])), torch.tensor(np.asarray(state["step"]))) if dtype in BITS else None
        codec = cls(dtype, tuple(state["shape"]), grid)
        codec.written, codec.clipped = state["written"], state["clipped"]
        return codec


def grid(examples: torch.Tensor, dtype: Dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Make a grid for float32 examples [n, dimensions], or [n, C, H, W] where each channel is a dimension.

    Returns low and step, float32 [dimensions] each. A grid spans a dimension's examples but for the share `OUTSIDE` at either
    end. Where no example is negative, as after a ReLU, it begins at 0, and only the positive examples decide where it ends:
    otherwise a unit that is seldom active would be taken for silent.
    """
    outside, one_sided = OUTSIDE[dtype], bool((examples >= 0).all())
    low, high = torch.zeros(2, examples.shape[1], dtype=torch.float64)
    for i, of_one in enumerate(examples.detach().transpose(0, 1)):  # one dimension at a time: sorting takes memory
        x = of_one.flatten().cpu().double()
        x = (x[x > 0] if one_sided else x).sort().values
        if len(x):
            last = len(x) - 1
            high[i], low[i] = x[round(last * (1 - outside))], 0.0 if one_sided else x[round(last * outside)]
    width = high - low
    known = width[width > 0]
    least = float(known.median()) * NARROWEST if len(known) else 1.0
    width = width.clamp(min=least)
    return low.float(), (width / (2 ** BITS[dtype] - 1)).float()
