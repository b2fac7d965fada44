"""The replay against a model that keeps everything in Python lists and works the definitions out step by step."""

import tracemalloc
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from seer_rl.replay.replay import Replay

Frame = NDArray[np.uint8]


@dataclass
class Model:
    """All records ever written, oldest first, each a dict; the ring is the last `capacity` of them."""

    stack: int
    n_step: int
    discount: float
    capacity: int
    records: list[dict[str, Any]] = field(default_factory=list)
    forgotten: int = 0  # records no longer in the ring
    whole: bool = False  # a record holds its whole stack: forgetting a frame no longer breaks those after it

    def observe(self, frame: Frame, first: bool) -> None:
        self.records.append({"frame": frame, "first": first, "step": False, "terminated": False, "truncated": False})
        self.forgotten = max(self.forgotten, len(self.records) - self.capacity)

    def act(self, action: int, reward: float, terminated: bool, truncated: bool) -> None:
        self.records[-1].update(action=action, reward=reward, terminated=terminated, truncated=truncated, step=True)

    def frames(self, i: int) -> list[Frame] | None:
        """The stack that ends at record i, or None if one of its frames has been forgotten."""
        places = [i]
        while len(places) < self.stack:
            places.append(places[-1] if self.records[places[-1]]["first"] else places[-1] - 1)
        if min(places) < self.forgotten and not self.whole:
            return None
        return [self.records[j]["frame"] for j in reversed(places)]

    def transition(self, i: int) -> tuple[Any, ...] | None:
        """(obs, action, reward, discount, next_obs) from record i; next_obs None after a termination; None if not to be had."""
        if not self.records[i]["step"] or i < self.forgotten or self.frames(i) is None:
            return None
        reward, discount, j = 0.0, 1.0, i
        for _ in range(self.n_step):
            if j >= len(self.records) or not self.records[j]["step"]:
                return None  # the window is not complete yet
            reward += discount * self.records[j]["reward"]
            discount *= self.discount
            j += 1
            if self.records[j - 1]["terminated"]:
                return self.frames(i), self.records[i]["action"], reward, 0.0, None
            if self.records[j - 1]["truncated"]:
                break
        if j >= len(self.records):
            return None
        return self.frames(i), self.records[i]["action"], reward, discount, self.frames(j)

    def transitions(self) -> dict[int, tuple[Any, ...]]:
        """Every transition that can be sampled, by its action, which names it."""
        every = (self.transition(i) for i in range(self.forgotten, len(self.records)))
        return {t[1]: t for t in every if t is not None}


def frame(i: int, channels: int, size: int) -> Frame:
    """A frame that says which one it is."""
    return np.random.default_rng(i).integers(0, 256, (channels, size, size), dtype=np.uint8)


class World:
    """Drives a replay and its model through the same episodes."""

    def __init__(self, replay: Replay, model: Model, channels: int, size: int) -> None:
        self.replay, self.model, self.shape, self.steps = replay, model, (channels, size), 0
        self.history: list[Frame] = []

    def obs(self, first: bool) -> Frame:
        self.history = [] if first else self.history
        new = frame(self.steps, *self.shape)
        self.history = ([new] * self.model.stack if first else [*self.history, new])[-self.model.stack :]
        return np.concatenate(self.history)

    def begin(self) -> None:
        self.steps += 1
        if self.model.records and not self.ended() and not self.model.records[-1]["first"]:
            self.model.records[-2]["truncated"] = True
        obs = self.obs(first=True)
        self.model.observe(self.history[-1], first=True)
        self.replay.begin(obs)

    def ended(self) -> bool:
        last = self.model.records[-1]
        before = self.model.records[-2] if len(self.model.records) > 1 else None
        return bool(last["terminated"] or (before and before["truncated"] and not last["first"]))

    def step(self, terminated: bool, truncated: bool) -> None:
        self.steps += 1
        reward = float(np.float32(np.random.default_rng(self.steps).normal()))
        self.model.act(self.steps, reward, terminated, truncated)
        obs = self.obs(first=False)
        if not terminated:
            self.model.observe(self.history[-1], first=False)
        self.replay.add(self.steps, reward, terminated, truncated, obs)


def check(replay: Replay, model: Model, embed: "Project | None") -> None:
    """Every transition of the model is sampled, and nothing else; each with the model's numbers."""
    expected = model.transitions()
    assert len(replay) == len(expected)
    assert replay.size == len(model.records) - model.forgotten
    if not expected:
        with pytest.raises(ValueError, match="no complete transition"):
            replay.sample(1)
        return
    batch = replay.sample(64 + 16 * len(expected))
    seen = batch.action.tolist()
    assert set(seen) <= set(expected)
    if not replay.exponent:
        assert len(set(seen)) > 0.9 * len(expected)  # a step escapes with probability e^-16

    def is_stored(found: torch.Tensor, frames: list[Frame]) -> bool:
        stack = torch.from_numpy(np.concatenate(frames))
        copies = stack[None] if embed is None else embed(stack[None], current=False)[0]
        return any(torch.equal(found, copy) for copy in copies)

    ages = np.arange(max(1, replay.size - replay.stack + 1))
    for age, found in zip(ages.tolist(), replay.aged(ages), strict=True):
        frames = model.frames(len(model.records) - 1 - age)
        assert frames
        assert is_stored(found, frames)

    for row, action in enumerate(seen[:200]):
        obs, _, reward, discount, next_obs = expected[action]
        assert is_stored(batch.obs[row], obs)
        np.testing.assert_allclose(batch.reward[row], reward, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(batch.discount[row], discount, rtol=1e-6)
        if next_obs is not None:
            assert is_stored(batch.next_obs[row], next_obs)


class Project:
    """A rewriter: a fixed linear map of the stack to `length` numbers; copy k has k added, and the one to act on -1."""

    def __init__(self, inputs: int, length: int, copies: int) -> None:
        self.weight = torch.from_numpy(np.random.default_rng(0).integers(-9, 9, (inputs, length)).astype(np.float32))
        self.copies = copies

    def __call__(self, obs: torch.Tensor, current: bool) -> torch.Tensor:
        z = obs.flatten(1).float() @ self.weight  # small integers: exact in float32, in any order
        added = [*([-1] if current and self.copies > 1 else []), *range(self.copies)]
        return torch.stack([z + k for k in added], dim=1)


def flat(obs: torch.Tensor, current: bool) -> torch.Tensor:
    """The simplest rewriter."""
    return obs.flatten(1).float()[:, None]


episodes = st.lists(
    st.tuples(st.integers(0, 25), st.sampled_from(["terminated", "truncated", "abandoned"])), min_size=1, max_size=14
)


@settings(max_examples=150, deadline=None)
@given(
    episodes=episodes,
    stack=st.integers(1, 4),
    n_step=st.integers(1, 6),
    capacity=st.integers(12, 60),
    rewrite_at=st.one_of(st.none(), st.integers(0, 150)),
    length=st.integers(1, 40),  # of an embedding: 4 to 160 bytes instead of 9 to 27
    limit=st.one_of(st.none(), st.integers(11, 90)),
    copies=st.integers(1, 3),
    exponent=st.sampled_from([0.0, 0.7]),
    chunk=st.integers(3, 20),
)
def test_replay_is_its_model(
    episodes: list[tuple[int, str]],
    stack: int,
    n_step: int,
    capacity: int,
    rewrite_at: int | None,
    length: int,
    limit: int | None,
    copies: int,
    exponent: float,
    chunk: int,
) -> None:
    channels, size = 3, 3
    replay = Replay((stack * channels, size, size), (), np.int32, capacity=capacity, stack=stack, n_step=n_step,
                    discount=0.9, priority_exponent=exponent)  # fmt: skip
    assert replay.capacity == capacity
    model = Model(stack, n_step, 0.9, capacity)
    world = World(replay, model, channels, size)
    embed: Project | None = None

    def maybe_rewrite() -> None:
        nonlocal embed
        if embed is not None or rewrite_at is None or world.steps < rewrite_at:
            return
        transform = Project(stack * channels * size * size, length, copies)
        memory = replay.bytes_per_step * replay.capacity
        record = -(-(4 * length * copies + 4 + 4 + 1) // 4) * 4 + (16 if exponent else 0)
        fits = min(memory // record, limit or 10**9)
        broken = next(i for i in range(model.forgotten, len(model.records) + 1) if i == len(model.records) or model.frames(i))
        if fits < n_step + stack + 1:
            with pytest.raises(ValueError, match="need at least"):
                replay.rewrite(transform, copies, limit)
            check(replay, model, None)  # refused, and nothing lost
            return
        before = model.forgotten
        model.capacity = fits
        model.forgotten = max(broken, len(model.records) - fits)
        with patch("seer_rl.replay.replay.REWRITE_CHUNK", chunk):  # many chunks even here
            assert replay.rewrite(transform, copies, limit) == model.forgotten - before
        assert replay.capacity == fits
        model.whole = True
        embed = transform

    for steps, end in episodes:
        world.begin()
        for i in range(steps):
            maybe_rewrite()
            last = i == steps - 1
            world.step(terminated=last and end == "terminated", truncated=last and end == "truncated")
            if embed and not last:
                now = torch.from_numpy(np.concatenate(world.history))[None]
                assert torch.equal(replay.observation, embed(now, current=True)[:, 0])
        maybe_rewrite()
        check(replay, model, embed)


def filled(exponent: float, steps: int = 40, seed: int = 0) -> Replay:
    replay = Replay((1, 2, 2), (), np.int32, capacity=64, n_step=2, priority_exponent=exponent, seed=seed)
    replay.begin(np.zeros((1, 2, 2), np.uint8))
    for i in range(steps):
        replay.add(i, 0.0, False, False, np.full((1, 2, 2), i % 256, np.uint8))
    return replay


def test_priorities_set_frequencies_and_importance_weights() -> None:
    """P(i) = p_i^alpha / sum p^alpha and w = (N P(i))^-beta / max w (Schaul et al., 2016, eq. 1 and section 3.4)."""
    replay = filled(exponent=0.5)
    batch = replay.sample(39 * 200)  # equal priorities at first: stratified, every step exactly equally often
    assert set(np.bincount(batch.action, minlength=39)) <= {199, 200, 201}
    first = np.unique(batch.index)
    error = torch.arange(1, 40, dtype=torch.float64)
    replay.update_priorities(first, error)
    p = error.numpy() ** 0.5
    batch = replay.sample(100_000, beta=0.6)
    share = np.bincount(batch.action, minlength=39) / 100_000
    np.testing.assert_allclose(share, p / p.sum(), atol=3e-5)
    weight = (39 * p / p.sum()) ** -0.6
    np.testing.assert_allclose(batch.weight, (weight / weight.max())[batch.action], rtol=1e-5)
    replay.add(39, 0.0, False, False, np.zeros((1, 2, 2), np.uint8))  # a new step has the largest priority so far
    batch = replay.sample(100_000)
    assert (batch.action == 39).double().mean().item() == pytest.approx(p.max() / (p.sum() + p.max()), abs=1e-4)


def test_priorities_survive_a_rewrite_of_a_wrapped_ring() -> None:
    replay = filled(exponent=1.0, steps=100)  # 64 records: wrapped
    index = np.unique(replay.sample(5000).index)
    actions = replay._steps["action"][index]
    replay.update_priorities(index, torch.from_numpy(actions % 7 + 1.0))
    dropped = replay.rewrite(flat)
    batch = replay.sample(200_000)
    kept = np.sort(actions)[max(0, dropped) :]
    share = np.bincount(batch.action, minlength=101)[kept] / 200_000
    expected = kept % 7 + 1.0
    np.testing.assert_allclose(share, expected / expected.sum(), atol=2e-4)


def test_copies_are_drawn_uniformly_and_independently_for_obs_and_next_obs() -> None:
    copies, draws = 3, 30_000
    replay = filled(exponent=0)
    project = Project(4, 1, copies)
    replay.rewrite(project, copies)
    batch = replay.sample(draws)
    base = {i: float(project(torch.full((1, 1, 2, 2), i, dtype=torch.uint8), current=False)[0, 0]) for i in range(40)}
    # Action i was taken at the frame after step i - 1, which shows i - 1; two steps later the frame shows i + 1.
    rows = (batch.action > 0).nonzero().squeeze(1)
    drawn = torch.tensor([float(batch.obs[r, 0]) - base[int(batch.action[r]) - 1] for r in rows])
    drawn_next = torch.tensor([float(batch.next_obs[r, 0]) - base[int(batch.action[r]) + 1] for r in rows])
    counts = torch.bincount((drawn * copies + drawn_next).long(), minlength=copies**2)
    expected = len(rows) / copies**2
    assert float(((counts - expected) ** 2 / expected).sum()) < 32  # chi square with 8 degrees of freedom: p = 0.0001


def test_uniform_sampling_is_uniform_and_seeded() -> None:
    counts = np.bincount(filled(exponent=0).sample(39_000).action, minlength=39)
    assert ((counts - 1000) ** 2 / 1000).sum() < 80  # chi square with 38 degrees of freedom: p = 0.0001
    draws = [filled(exponent, seed=seed).sample(50).action for exponent in (0, 1) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(draws[3], draws[4])
    assert not torch.equal(draws[0], draws[2])


def test_misuse_is_refused_in_a_sentence() -> None:
    frame = np.zeros((1, 2, 2), np.uint8)
    with pytest.raises(ValueError, match="either"):
        Replay((1, 2, 2), (), np.uint8)
    with pytest.raises(ValueError, match="either"):
        Replay((1, 2, 2), (), np.uint8, memory=10**6, capacity=10)
    with pytest.raises(ValueError, match="not a stack"):
        Replay((5, 2, 2), (), np.uint8, capacity=10, stack=2)
    with pytest.raises(ValueError, match="need at least 22"):
        Replay((1, 2, 2), (), np.uint8, capacity=21, n_step=20)
    with pytest.raises(MemoryError, match="refuses a replay"):
        Replay((1, 2, 2), (), np.uint8, memory=2**62)
    replay = Replay((1, 2, 2), (), np.uint8, capacity=10)
    with pytest.raises(RuntimeError, match=r"call Replay\.begin"):
        replay.add(0, 0.0, False, False, frame)
    with pytest.raises(RuntimeError, match="empty"):
        replay.rewrite(flat)
    replay.begin(frame)
    replay.rewrite(flat)
    with pytest.raises(RuntimeError, match="already"):
        replay.rewrite(flat)


def test_continuous_actions_come_back_as_they_went_in() -> None:
    replay = Replay((1, 2, 2), (3,), np.float32, capacity=10)
    replay.begin(np.zeros((1, 2, 2), np.uint8))
    replay.add(np.array([0.25, -1, 0.5], np.float32), 1.0, False, False, np.zeros((1, 2, 2), np.uint8))
    batch = replay.sample(2)
    assert batch.action.dtype == torch.float32
    assert torch.equal(batch.action[0], torch.tensor([0.25, -1, 0.5]))


def test_rewriting_takes_one_number_per_priority_beside_the_replay() -> None:
    """Of a replay that holds far more than fits beside it."""
    replay = Replay((1, 2, 2), (), np.uint8, capacity=20_000, priority_exponent=0.5)
    obs = np.zeros((1, 2, 2), np.uint8)
    replay.begin(obs)
    for i in range(25_000):
        replay.add(0, float(i), False, i % 1000 == 999, obs)
        if i % 1000 == 999:
            replay.begin(obs)
    tracemalloc.start()
    replay.rewrite(flat)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1.5 * 8 * replay.size + 100_000
