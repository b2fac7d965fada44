"""Replays saved by earlier versions, whose records held observation, reward, action and flags side by side."""

from typing import Any

import numpy as np
import pytest
import torch

from seer_rl.replay.codec import Dtype
from seer_rl.replay.replay import Replay
from tests.replay.saved import held, plain
from tests.replay.test_replay import Project


def made(exponent: float, **settings: Any) -> Replay:
    return Replay((2, 3, 3), (3,), np.float32, memory=9_000, stack=2, n_step=3, priority_exponent=exponent, **settings)


@pytest.mark.parametrize("exponent", [0.0, 0.5], ids=["uniform", "prioritized"])
@pytest.mark.parametrize(("dtype", "copies"), [(None, 1), ("float32", 2), ("uint8", 3), ("uint4", 1)])
def test_they_are_read_as_if_saved_today(dtype: Dtype | None, copies: int, exponent: float) -> None:
    replay, rng = made(exponent), np.random.default_rng(0)
    project = Project(5, copies)

    def frames() -> np.ndarray:
        return rng.integers(256, size=(1, 2, 3, 3), dtype=np.uint8)

    replay.begin(frames())
    for i in range(300):
        if dtype and i == 150:
            replay.rewrite(project, copies, dtype=dtype)
        end = i % 40 == 39
        replay.add(rng.normal(size=(1, 3)).astype("f4"), [i], [end], [False], frames())
        if end:
            replay.begin(frames())
    if exponent:
        batch = replay.sample(20)
        replay.update_priorities(batch.index, torch.arange(20.0))

    # As version 0.1.0 kept and saved it.
    store, (lane,) = replay._store, replay._store.lanes
    column = store.layout.columns["obs"]
    obs = ("obs", str(column.dtype).removeprefix("torch."), (column.copies, *column.shape))
    record = np.dtype([obs, ("reward", "f4"), ("action", "f4", (3,)), ("flags", "u1")], align=True)
    records = np.zeros(lane.size, record)
    raw = store.arena.bytes[: lane.size * store.layout.row_bytes].numpy().reshape(lane.size, -1)
    records["obs"] = raw[:, : column.nbytes].copy().view(records["obs"].dtype).reshape(records["obs"].shape)
    for name in ("reward", "action", "flags"):
        records[name] = store.steps[name][: lane.size]
    today = plain(replay.get_state())
    earlier = {name: value for name, value in today.items() if name not in ("lanes", "observation", "rewritten")}
    earlier |= {
        "observation": today["observation"]["obs"],
        "rewritten": (today["rewritten"] or {}).get("obs"),
        **today["lanes"][0],
    }
    segments = [records[i : i + 7].tobytes() for i in range(0, lane.size, 7)]

    pieces = held(replay)
    other = made(exponent, seed=9)
    other.set_state(earlier, segments, {"steps": [], "priorities": pieces.get("priorities", [])}, project if dtype else None)
    assert {name: held(other)[name] for name in replay.books()} == {name: pieces[name] for name in replay.books()}
    assert other.touched() == set(range(other.segment_count))  # the next checkpoint writes all of them anew
    rows = torch.arange(lane.size)
    for copy in range(column.copies):  # not the bytes behind a row, which may be anything
        assert torch.equal(other._store.table.read("obs", rows, copy), store.table.read("obs", rows, copy))
    assert (other.bytes_per_step, other.capacity, len(other)) == (replay.bytes_per_step, replay.capacity, len(replay))
    one, two = replay.sample(50), other.sample(50)
    assert torch.equal(one.obs, two.obs)
    assert torch.equal(one.action, two.action)
    if exponent:  # 0.1.0 saved the whole tree
        assert store.tree
        older = made(exponent)
        older.set_state(
            earlier | {"tree": store.tree.nodes}, segments, {"steps": [], "priorities": []}, project if dtype else None
        )
        assert older._store.tree
        assert np.array_equal(older._store.tree.nodes, store.tree.nodes)
