"""The replay against a model that keeps everything in Python lists and works the definitions out step by step."""

import math
import tracemalloc
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from seer_rl.replay.observation import Obs, each, keyed
from seer_rl.replay.replay import Replay
from tests.replay.saved import go_on, held, plain

Frames = dict[str, NDArray[Any]]  # of one moment, by key


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

    def observe(self, frame: Frames, first: bool) -> None:
        self.records.append({"frame": frame, "first": first, "step": False, "terminated": False, "truncated": False})
        self.forgotten = max(self.forgotten, len(self.records) - self.capacity)

    def act(self, action: int, reward: float, terminated: bool, truncated: bool) -> None:
        self.records[-1].update(action=action, reward=reward, terminated=terminated, truncated=truncated, step=True)

    def frames(self, i: int) -> list[Frames] | None:
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


def stacked(frames: list[Frames]) -> Frames:
    """Stack frames, oldest first, along their first dimension."""
    return {key: np.concatenate([one[key] for one in frames]) for key in frames[0]}


class World:
    """Drives a replay and its models, one for each lane, through the same episodes."""

    def __init__(self, replay: Replay, models: list[Model], shapes: dict[str, tuple[int, ...]]) -> None:
        """shapes: of single frames, by key; "obs" alone means that observations are no dictionaries."""
        self.replay, self.models, self.shapes, self.steps = replay, models, shapes, 0
        self.history: list[list[Frames]] = [[] for _ in models]

    def frame(self, lane: int) -> Frames:
        """Frames that say which ones they are, and whose."""
        rng = np.random.default_rng(self.steps * 100 + lane)
        return {
            key: rng.integers(0, 256, shape, dtype=np.uint8) if len(shape) == 3 else rng.normal(size=shape).astype("f4")
            for key, shape in self.shapes.items()
        }

    def obs(self, lanes: list[int], first: bool) -> Any:
        for lane in lanes:
            new, stack = self.frame(lane), self.models[lane].stack
            self.history[lane] = ([new] * stack if first else [*self.history[lane], new])[-stack:]
        now = [stacked(self.history[lane]) for lane in lanes]
        named = {key: np.stack([one[key] for one in now]) for key in self.shapes}
        return named["obs"] if list(named) == ["obs"] else named

    def begin(self, lanes: list[int]) -> None:
        self.steps += 1
        for lane in lanes:
            model = self.models[lane]
            if model.records and not self.ended(lane) and not model.records[-1]["first"]:
                model.records[-2]["truncated"] = True
        obs = self.obs(lanes, first=True)
        for lane in lanes:
            self.models[lane].observe(self.history[lane][-1], first=True)
        self.replay.begin(obs, lanes)

    def ended(self, lane: int) -> bool:
        records = self.models[lane].records
        before = records[-2] if len(records) > 1 else None
        return bool(records[-1]["terminated"] or (before and before["truncated"] and not records[-1]["first"]))

    def step(self, ends: dict[int, str]) -> None:
        """Take a step in every lane that `ends` names; it says how the step ends there: terminated, truncated or not at all."""
        self.steps += 1
        lanes = list(ends)
        actions = [self.steps * len(self.models) + lane for lane in lanes]
        rewards = np.random.default_rng(self.steps).normal(size=len(lanes)).astype(np.float32)
        terminated, truncated = (np.array([end == kind for end in ends.values()]) for kind in ("terminated", "truncated"))
        for lane, action, reward, end in zip(lanes, actions, rewards, ends.values(), strict=True):
            self.models[lane].act(action, float(reward), end == "terminated", end == "truncated")
        obs = self.obs(lanes, first=False)
        for lane, end in ends.items():
            if end != "terminated":
                self.models[lane].observe(self.history[lane][-1], first=False)
        self.replay.add(actions, rewards, terminated, truncated, obs, lanes)


def check(replay: Replay, models: list[Model], embed: "Project | None") -> None:
    """Every transition of the models is sampled, and nothing else; each with the model's numbers."""
    expected: dict[int, tuple[Any, ...]] = {}
    for model in models:
        expected |= model.transitions()
    assert len(replay) == len(expected)
    assert replay.size == sum(len(model.records) - model.forgotten for model in models)
    if not expected:
        with pytest.raises(ValueError, match="no complete transition"):
            replay.sample(1)
        return
    batch = replay.sample(64 + 16 * len(expected))
    seen = batch.action.tolist()
    assert set(seen) <= set(expected)
    if not replay.exponent:
        assert len(set(seen)) > 0.9 * len(expected)  # a step escapes with probability e^-16

    def is_stored(found: dict[str, torch.Tensor], frames: list[Frames]) -> bool:
        """Tell whether this is the stack of the frames; after a rewrite, of every image any copy of its result."""
        stack = {key: torch.from_numpy(x) for key, x in stacked(frames).items()}
        images = {key: x for key, x in stack.items() if x.dtype == torch.uint8}
        copies = {} if embed is None else {key: embed.copies_of(x[None])[0] for key, x in images.items()}
        return all(any(torch.equal(found[key], one) for one in copies.get(key, x[None])) for key, x in stack.items())

    def row(obs: Any, i: int) -> dict[str, torch.Tensor]:
        return {key: x[i] for key, x in keyed(obs).items()}

    ages = np.arange(max(1, replay.oldest_age + 1))
    aged = replay.aged(ages)
    for age in ages.tolist():
        model = models[age % len(models)]
        frames = model.frames(len(model.records) - 1 - age // len(models))
        assert frames
        assert is_stored(row(aged, age), frames)

    _, _, rewards, discounts, _ = zip(*(expected[action] for action in seen), strict=True)
    np.testing.assert_allclose(batch.reward.cpu(), rewards, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(batch.discount.cpu(), discounts, rtol=1e-6)
    for i, action in enumerate(seen[:200]):
        obs, _, _, _, next_obs = expected[action]
        assert is_stored(row(batch.obs, i), obs)
        if next_obs is not None:
            assert is_stored(row(batch.next_obs, i), next_obs)


class Project:
    """A rewriter: a fixed linear map of a stack to `length` numbers; copy k has k added, and the one to act on -1."""

    def __init__(self, length: int, copies: int) -> None:
        self.length, self.copies = length, copies

    def mapped(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(1).float()
        weight = np.random.default_rng(flat.shape[1]).integers(-9, 9, (flat.shape[1], self.length)).astype(np.float32)
        return flat @ torch.from_numpy(weight)  # small integers: exact in float32, in any order

    def copies_of(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.mapped(x) + k for k in range(self.copies)], dim=1)

    def to_act_on(self, x: torch.Tensor) -> torch.Tensor:
        return self.mapped(x) - int(self.copies > 1)

    def __call__(self, obs: Obs, current: bool) -> tuple[Obs, Obs]:
        return each(self.to_act_on, obs), each(self.copies_of, obs)


def flat(obs: Obs, current: bool) -> tuple[Obs, Obs]:
    """The simplest rewriter."""
    z = each(lambda x: x.flatten(1).float(), obs)
    return z, each(lambda x: x[:, None], z)


IMAGE = {"obs": (3, 3, 3)}
SENSES = {"joints": (2,), "wrist": (1, 2, 2), "front": (2, 3, 1)}
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]

# Of each lane in turn: steps of an episode, and how it ends.
episodes = st.lists(
    st.tuples(st.integers(0, 25), st.sampled_from(["terminated", "truncated", "abandoned"])), min_size=1, max_size=14
)


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
@given(
    episodes=st.lists(episodes, min_size=1, max_size=3),  # of each lane
    shapes=st.sampled_from([IMAGE, SENSES]),
    stack=st.integers(1, 4),
    n_step=st.integers(1, 6),
    places=st.integers(12, 60),
    rewrite_at=st.one_of(st.none(), st.integers(0, 150)),
    length=st.integers(1, 40),  # of an embedding: 4 to 160 bytes instead of 9 to 27
    limit=st.one_of(st.none(), st.integers(11, 90)),
    copies=st.integers(1, 3),
    exponent=st.sampled_from([0.0, 0.7]),
    chunk=st.integers(3, 20),
    save_at=st.sampled_from([0, 1, 5, 11, 10**6]),
)
def test_replay_is_its_model(
    device: str,
    episodes: list[list[tuple[int, str]]],
    shapes: dict[str, tuple[int, ...]],
    stack: int,
    n_step: int,
    places: int,
    rewrite_at: int | None,
    length: int,
    limit: int | None,
    copies: int,
    exponent: float,
    chunk: int,
    save_at: int,
) -> None:
    """Lanes, keys, stacks, n-step windows, priorities, and at any moment a rewrite, and another replay that goes on."""
    count = len(episodes)
    whole = {key: (stack * shape[0], *shape[1:]) for key, shape in shapes.items()}

    def made() -> Replay:
        return Replay(whole["obs"] if shapes is IMAGE else whole, (), np.int32, capacity=places * count, lanes=count,
                      stack=stack, n_step=n_step, discount=0.9, priority_exponent=exponent, device=device)  # fmt: skip

    replay = made()
    assert replay.capacity == places * count
    models = [Model(stack, n_step, 0.9, places) for _ in range(count)]
    world = World(replay, models, shapes)
    embed: Project | None = None
    refused = False

    def maybe_rewrite() -> None:
        nonlocal embed, refused
        if embed is not None or rewrite_at is None or world.steps < rewrite_at or refused:
            return
        transform = Project(length, copies)
        memory = replay.bytes_per_step * replay.capacity
        images = sum(len(shape) == 3 for shape in shapes.values())
        vectors = sum(4 * shape[0] * stack for shape in shapes.values() if len(shape) == 1)
        record = 4 * length * copies * images + vectors + 12 + (16 if exponent else 0)
        fits = memory // (record * count)
        if limit is not None:
            fits = min(fits, -(-limit // count))
        if fits < n_step + stack + 1:
            with pytest.raises(ValueError, match="need at least"):
                replay.rewrite(transform, copies, limit)
            check(replay, models, None)  # refused, and nothing lost
            refused = True
            return
        before = [model.forgotten for model in models]
        for model in models:
            every = range(model.forgotten, len(model.records) + 1)
            broken = next(i for i in every if i == len(model.records) or model.frames(i))
            model.capacity, model.whole = fits, True
            model.forgotten = max(broken, len(model.records) - fits)
        with patch("seer_rl.replay.convert.CHUNK", chunk):  # many chunks even here
            dropped = replay.rewrite(transform, copies, limit)
        assert dropped == sum(model.forgotten - before for model, before in zip(models, before, strict=True))
        assert replay.capacity == fits * count
        embed = transform

    def maybe_move() -> None:
        """Let another replay go on from what this one saved."""
        nonlocal replay
        if world.steps % 13 == save_at:
            before, replay = replay, made()
            go_on(replay, before, embed, limit)
            world.replay = replay

    left = [list(some) for some in episodes]
    ahead: list[tuple[int, str]] = [(0, "")] * count  # steps left in each lane's episode, and how it ends
    begun = [False] * count
    while any(left) or any(steps for steps, _ in ahead):
        starting = [lane for lane in range(count) if ahead[lane][0] == 0 and (left[lane] or not begun[lane])]
        for lane in starting:
            ahead[lane], begun[lane] = left[lane].pop(0), True
        if starting:
            world.begin(starting)
        maybe_rewrite()
        maybe_move()
        ends = {lane: how if steps == 1 else "" for lane, (steps, how) in enumerate(ahead) if steps}
        if ends:
            world.step(ends)
            ahead = [(max(0, steps - 1), how) for steps, how in ahead]
            running = [lane for lane, how in ends.items() if how in ("", "abandoned")]
            for key, x in keyed(replay.observation).items():
                for lane in running:
                    now = torch.from_numpy(stacked(world.history[lane])[key])[None]
                    changed = embed is not None and now.dtype == torch.uint8
                    assert embed is None or torch.equal(x[lane : lane + 1].cpu(), embed.to_act_on(now) if changed else now)
        maybe_rewrite()
        if world.steps % 30 == 0:
            check(replay, models, embed)
    check(replay, models, embed)


def filled(exponent: float, steps: int = 40, seed: int = 0) -> Replay:
    replay = Replay((1, 2, 2), (), np.int32, capacity=64, n_step=2, priority_exponent=exponent, seed=seed)
    replay.begin(np.zeros((1, 1, 2, 2), np.uint8))
    for i in range(steps):
        replay.add([i], [0.0], [False], [False], np.full((1, 1, 2, 2), i % 256, np.uint8))
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
    replay.add([39], [0.0], [False], [False], np.zeros((1, 1, 2, 2), np.uint8))  # a new step has the largest priority so far
    batch = replay.sample(100_000)
    assert (batch.action == 39).double().mean().item() == pytest.approx(p.max() / (p.sum() + p.max()), abs=1e-4)


def test_priorities_survive_a_rewrite_of_a_wrapped_ring() -> None:
    replay = filled(exponent=1.0, steps=100)  # 64 records: wrapped
    index = np.unique(replay.sample(5000).index)
    actions = replay._store.steps["action"][index]
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
    project = Project(1, copies)
    replay.rewrite(project, copies)
    batch = replay.sample(draws)
    base = {i: float(project.mapped(torch.full((1, 1, 2, 2), i, dtype=torch.uint8))) for i in range(40)}
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
    for memory in ("4MB", 4.5, math.inf, math.nan):
        with pytest.raises(ValueError, match="memory must be a whole number of bytes, not "):
            Replay((1, 2, 2), (), np.uint8, memory=memory)  # type: ignore[arg-type]
    whole, floating = (Replay((1, 2, 2), (), np.uint8, memory=n) for n in (10**6, 1e6))  # type: ignore[arg-type]
    assert whole.capacity == floating.capacity
    for name in ("lanes", "stack", "n_step"):
        with pytest.raises(ValueError, match=f"{name} is a number from 1 on, not 0"):
            Replay((1, 2, 2), (), np.uint8, capacity=10, **{name: 0})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"not \(2, 2\); without channels \(1, H, W\)"):
        Replay((2, 2), (), np.uint8, capacity=10)
    with pytest.raises(ValueError, match="not a stack"):
        Replay((5, 2, 2), (), np.uint8, capacity=10, stack=2)
    with pytest.raises(ValueError, match="need at least 22"):
        Replay((1, 2, 2), (), np.uint8, capacity=21, n_step=20)
    with pytest.raises(MemoryError, match="refuses a replay"):
        Replay((1, 2, 2), (), np.uint8, memory=2**62)
    replay = Replay((1, 2, 2), (), np.uint8, capacity=10)
    with pytest.raises(RuntimeError, match=r"call Replay\.begin"):
        replay.add([0], [0.0], [False], [False], frame[None])
    with pytest.raises(RuntimeError, match="empty"):
        replay.rewrite(flat)
    replay.begin(frame[None])
    replay.rewrite(flat)
    with pytest.raises(RuntimeError, match="already"):
        replay.rewrite(flat)


def test_observations_come_from_numpy_or_pytorch_with_the_environments_first() -> None:
    frames = np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2)
    replays = [Replay((3, 2, 2), (), np.uint8, capacity=30, lanes=2) for _ in range(2)]
    kinds: list[Any] = [frames.copy(), torch.from_numpy(frames.copy())]
    for replay, obs in zip(replays, kinds, strict=True):
        replay.begin(obs)
        replay.add([1, 2], [0.0, 0.0], [False, False], [False, True], obs + 24)
        obs[:] = 0  # what is stored are copies
    ours, theirs = (replay.sample(6) for replay in replays)
    assert torch.equal(ours.obs, theirs.obs)
    assert torch.equal(keyed(replays[1].observation)["obs"], torch.from_numpy(frames + 24))
    one = Replay((3, 2, 2), (), np.uint8, capacity=30)
    with pytest.raises(ValueError, match=r"2 observations were given for 1 of the replay's lanes \(Replay\(lanes=N\)\)"):
        one.begin(frames)
    with pytest.raises(ValueError, match=r"observations must have the environments as their first dimension: give x\[None\]"):
        one.begin(frames[0])
    with pytest.raises(ValueError, match=r"must be uint8 of the shape \(3, 2, 2\), not torch.bfloat16 of \(3, 2, 2\)"):
        one.begin(torch.zeros(1, 3, 2, 2, dtype=torch.bfloat16))


def test_lanes_may_be_named_in_any_order_but_once() -> None:
    replay = Replay((1, 2, 2), (), np.uint8, capacity=30, lanes=3)
    frames = np.arange(3, dtype=np.uint8)[:, None, None, None].repeat(2, 2).repeat(2, 3)
    replay.begin(frames[[2, 0, 1]], lanes=[2, 0, 1])
    assert np.array_equal(keyed(replay.observation)["obs"], frames)
    replay.add([1, 2], [0.0, 0.0], [False, False], [False, False], frames[[2, 0]] + 10, lanes=[2, 0])
    assert np.array_equal(keyed(replay.observation)["obs"], frames + np.array([10, 0, 10], np.uint8)[:, None, None, None])
    for wrong in ([0, 0], [3], [-1]):
        with pytest.raises(ValueError, match="the replay has lanes 0 to 2, each of which may be named once"):
            replay.begin(frames[: len(wrong)], lanes=wrong)


def test_observations_saved_in_another_order_are_refused() -> None:
    """Cameras of one shape would be taken for each other."""
    one, other = (Replay(dict.fromkeys(keys, (1, 2, 2)), (), np.uint8, capacity=10) for keys in (("a", "b"), ("b", "a")))
    seen = {"b": np.full((1, 1, 2, 2), 2, np.uint8), "a": np.full((1, 1, 2, 2), 1, np.uint8)}
    one.begin(seen)  # an environment may put them in any order
    with pytest.raises(ValueError, match="saved with observations of a, b, and this one has b, a"):
        go_on(other, one, None)
    again = Replay(dict.fromkeys("ab", (1, 2, 2)), (), np.uint8, capacity=10)
    go_on(again, one, None)
    assert {key: int(x.max()) for key, x in keyed(again.observation).items()} == {"a": 1, "b": 2}
    state = {name: value for name, value in one.get_state().items() if name != "keys"}  # as earlier versions saved it
    pieces = held(one)
    again.set_state(plain(state), pieces.pop("observations"), {"priorities": [], **pieces})


def test_a_saved_lane_that_lies_elsewhere_is_refused() -> None:
    replay = Replay((1, 2, 2), (), np.uint8, capacity=30, lanes=3)
    replay.begin(np.zeros((3, 1, 2, 2), np.uint8))
    for name, value in (("open", -3), ("open", 30), ("open", 1), ("next", 2), ("size", 11)):
        state = replay.get_state()
        state["lanes"][0][name] = value
        with pytest.raises(ValueError, match="cannot hold"):
            Replay((1, 2, 2), (), np.uint8, capacity=30, lanes=3).set_state(state, [], {"steps": []})


@pytest.mark.parametrize("exponent", [0.0, 0.5])
@pytest.mark.parametrize("capacity", [41, 50])
def test_a_saved_replay_goes_on_in_fewer_bytes_if_it_fits(capacity: int, exponent: float) -> None:
    """As where the plan for the freeze changes before it, and with it the room that the whole run needs."""
    saved = filled(exponent)  # 41 of 64
    other = Replay((1, 2, 2), (), np.int32, capacity=capacity, n_step=2, priority_exponent=exponent)
    go_on(other, saved, None)
    assert (other.capacity, other.size, len(other)) == (capacity, 41, len(saved))
    if not exponent:  # a smaller tree orders its leaves otherwise
        assert torch.equal(saved.sample(200).action, other.sample(200).action)
    for i in range(30):  # round the end of the smaller ring
        other.add([100 + i], [0.0], [False], [False], np.full((1, 1, 2, 2), 100 + i, np.uint8))
    batch = other.sample(2000)
    before = torch.where(batch.action == 100, 39, (batch.action - 1).clamp(min=0))  # the action before is what is shown
    assert torch.equal(batch.obs.flatten(1)[:, 0].int(), before.int())
    kept = range(capacity - 30)  # of the first 40, and the new ones whose window is complete
    assert set(batch.action.tolist()) == {*range(40 - len(kept) + 1, 40), *range(100, 129)}
    small = Replay((1, 2, 2), (), np.int32, capacity=40, n_step=2, priority_exponent=exponent)
    with pytest.raises(ValueError, match=r"a replay of [\d,]+ bytes cannot take over the 41 steps of one of [\d,]+ bytes"):
        go_on(small, saved, None)


@pytest.mark.parametrize("lanes", [1, 3, 4])
def test_what_is_not_touched_is_as_it_was_saved(lanes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint does not write it again. Lanes grow at different speeds, for truncated episodes take a record more."""
    monkeypatch.setattr("seer_rl.replay.store.SEGMENT_BYTES", 10 * 64)
    replay, rng = Replay((1, 8, 8), (), np.uint8, capacity=60 * lanes, lanes=lanes), np.random.default_rng(0)

    def seen(count: int) -> NDArray[np.uint8]:
        return rng.integers(0, 256, (count, 1, 8, 8), dtype=np.uint8)

    replay.begin(seen(lanes))
    saved: dict[int, bytes] = {}
    for _ in range(100):
        ends = rng.random(lanes) < 0.2 * np.arange(lanes)
        replay.add([0] * lanes, [0.0] * lanes, [False] * lanes, ends, seen(lanes))
        if ends.any():
            replay.begin(seen(int(ends.sum())), np.flatnonzero(ends).tolist())
        if rng.random() < 0.5:
            saved |= {i: bytes(replay.segment(i)) for i in replay.touched()}
            assert [saved[i] for i in range(replay.segment_count)] == held(replay)["observations"]


def test_continuous_actions_come_back_as_they_went_in() -> None:
    replay = Replay((1, 2, 2), (3,), np.float32, capacity=10)
    replay.begin(np.zeros((1, 1, 2, 2), np.uint8))
    replay.add([np.array([0.25, -1, 0.5], np.float32)], [1.0], [False], [False], np.zeros((1, 1, 2, 2), np.uint8))
    batch = replay.sample(2)
    assert batch.action.dtype == torch.float32
    assert torch.equal(batch.action[0], torch.tensor([0.25, -1, 0.5]))


def test_rewriting_takes_two_numbers_per_record_beside_the_replay() -> None:
    """Of a replay that holds far more than fits beside it."""
    replay = Replay((1, 2, 2), (), np.uint8, capacity=20_000, priority_exponent=0.5)
    obs = np.zeros((1, 2, 2), np.uint8)
    replay.begin(obs[None])
    for i in range(25_000):
        replay.add([0], [float(i)], [False], [i % 1000 == 999], obs[None])
        if i % 1000 == 999:
            replay.begin(obs[None])
    tracemalloc.start()
    replay.rewrite(flat)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    tree = replay._store.tree
    assert tree
    kept = replay._store.steps.nbytes + tree.nodes.nbytes  # reserved, and counted as the replay's
    assert most - kept < 1.25 * 16 * replay.size + 100_000
