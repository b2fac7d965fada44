"""Check what a replay is given: nothing is broadcast, cut or rounded to another kind of number without a word."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, DTypeLike, NDArray

from seer_rl.replay.observation import ONLY, Shape, Shapes, Unfit, is_image

LARGEST = float(np.finfo(np.float32).max)  # the largest magnitude of a reward

Arrays = NDArray[Any] | torch.Tensor | Mapping[str, NDArray[Any] | torch.Tensor]
"""Observations as environments give them, of NumPy or PyTorch."""


class Spec:
    """Say what observations, actions and rewards a replay holds."""

    def __init__(self, obs_shape: Shapes, action_shape: Shape, action_dtype: DTypeLike) -> None:
        """obs_shape: of an image, or of images and vectors by key. action_shape, action_dtype: of one action.

        Raises ValueError for a single observation of another number of dimensions.
        """
        self.single = not isinstance(obs_shape, Mapping)
        self.shapes: dict[str, Shape] = dict(obs_shape) if isinstance(obs_shape, Mapping) else {ONLY: tuple(obs_shape)}
        if self.single and len(shape := self.shapes[ONLY]) not in (1, 3):
            raise ValueError(f"observations are images (C, H, W) or vectors (D,), not {shape}; without channels (1, H, W)")
        self.images = [key for key, shape in self.shapes.items() if is_image(shape)]
        self.action_shape, self.action_dtype = action_shape, np.dtype(action_dtype)

    def dtype(self, key: str) -> torch.dtype:
        """Return the dtype of observations under `key`."""
        return torch.uint8 if key in self.images else torch.float32

    def observations(self, obs: Arrays, count: int) -> dict[str, NDArray[Any]]:
        """Return `count` observations by key. Raises Unfit if they are of another shape or dtype, or not finite."""
        given: dict[str, Any] = dict(obs) if isinstance(obs, Mapping) else {ONLY: obs}
        for key, x in given.items():
            if isinstance(x, torch.Tensor) and x.dtype in (torch.uint8, torch.float32):
                given[key] = x.numpy(force=True)
        if isinstance(obs, Mapping) == self.single or given.keys() != self.shapes.keys():
            found, wanted = (
                f"dictionaries of {', '.join(map(str, keys))}" if keyed else "arrays"
                for keys, keyed in ((given, isinstance(obs, Mapping)), (self.shapes, not self.single))
            )
            raise Unfit(f"observations must be {wanted}, not {found}")
        for key, shape in self.shapes.items():
            x, dtype = given[key], "uint8" if key in self.images else "float32"
            if np.shape(x) != (count, *shape) or getattr(x, "dtype", None) != dtype:
                name, kind, size = "" if self.single else f" {key!r}", getattr(x, "dtype", type(x).__name__), tuple(np.shape(x))
                if size == shape and count == 1:
                    raise Unfit(f"observations{name} must have the environments as their first dimension: give x[None]")
                if size[1:] == shape and size[0] != count:
                    raise Unfit(f"{size[0]} observations{name} were given for {count} of the replay's lanes (Replay(lanes=N))")
                found = f"{kind} of {size[1:] if size[:1] == (count,) else size}"
                raise Unfit(f"an observation{name} must be {dtype} of the shape {shape}, not {found}")
            if dtype == "float32" and not np.isfinite(x).all():
                raise Unfit(f"observations {key!r} hold numbers that are not finite")
        return {key: given[key] for key in self.shapes}  # in one order, however an environment puts them

    def actions(self, action: ArrayLike | torch.Tensor, count: int) -> NDArray[Any]:
        """Return `count` actions in their dtype. Raises Unfit for another shape or kind, and for numbers beyond the dtype."""
        given = action.numpy(force=True) if isinstance(action, torch.Tensor) else np.asarray(action)
        if given.shape != (count, *self.action_shape):
            raise Unfit(f"actions must have the shape {(count, *self.action_shape)}, not {given.shape}")
        whole = self.action_dtype.kind in "iu"
        if given.dtype.kind not in ("iu" if whole else "f"):
            raise Unfit(f"actions must be {self.action_dtype}, not {given.dtype}")
        with np.errstate(over="ignore"):
            cast: NDArray[Any] = given.astype(self.action_dtype)
        if (cast != given).any() if whole else not np.isfinite(cast).all():
            raise Unfit(f"an action does not fit into {self.action_dtype}: {given.tolist()}")
        return cast

    def rewards(self, reward: ArrayLike, count: int) -> NDArray[np.float64]:
        """Return `count` rewards. Raises Unfit for another shape, and for what is no finite float32."""
        given = np.asarray(reward)
        if given.shape != (count,) or given.dtype.kind not in "iuf":
            raise Unfit(f"rewards must be {count} numbers, not {given.dtype} of the shape {given.shape}")
        rewards = given.astype(np.float64)
        for one in rewards[~(np.abs(rewards) <= LARGEST)]:  # NaN, too
            raise Unfit(f"the reward is {one}, which is no finite float32")
        return rewards

    def ends(self, terminated: ArrayLike, truncated: ArrayLike, count: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return both as `count` truth values. Raises Unfit for anything else."""
        ends = np.asarray(terminated), np.asarray(truncated)
        if any(flag.shape != (count,) or flag.dtype != bool for flag in ends):
            raise Unfit(f"terminated and truncated must be {count} truth values each")
        return ends
