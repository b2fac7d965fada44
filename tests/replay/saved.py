"""What a replay saves, as tests compare it and hand it on."""

from typing import Any

import torch

from seer_rl.replay.replay import Replay, Rewriter


def held(replay: Replay) -> dict[str, list[bytes]]:
    """All that a replay holds: observations, steps and priorities."""
    segments = [bytes(replay.segment(i)) for i in range(replay.segment_count)]
    return {"observations": segments} | {name: list(map(bytes, parts)) for name, parts in replay.books().items()}


def plain(state: Any) -> Any:
    """The state as a checkpoint gives it back: with arrays in place of tensors."""
    if isinstance(state, dict):
        return {key: plain(value) for key, value in state.items()}
    if isinstance(state, list):
        return [plain(value) for value in state]
    return state.numpy() if isinstance(state, torch.Tensor) else state


def go_on(other: Replay, replay: Replay, fn: Rewriter | None, capacity: int | None = None) -> None:
    """Let `other` go on from what `replay` saves."""
    pieces = held(replay)
    other.set_state(plain(replay.get_state()), pieces.pop("observations"), {"priorities": [], **pieces}, fn, capacity)
