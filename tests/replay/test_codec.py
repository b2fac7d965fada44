"""Fewer bytes for embeddings: errors within half a step, exact packing, honest counts, and grids that outliers don't spoil."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seer_rl.replay.codec import BITS, DTYPES, EXAMPLES, NARROWEST, Codec, Dtype, examples, grid, layout
from seer_rl.replay.observation import ONLY, Obs, keyed
from seer_rl.replay.replay import Replay
from tests.replay.saved import go_on, plain

INTEGERS: tuple[Dtype, ...] = ("uint8", "uint4")


def sample(shape: tuple[int, ...], seed: int, one_sided: bool, scale: float = 1.0) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale
    return x.relu() if one_sided else x


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(INTEGERS), one_sided=st.booleans(), seed=st.integers(0, 10**6), length=st.integers(1, 9),
    scale=st.floats(1e-3, 1e3), maps=st.booleans(),
)  # fmt: skip
def test_what_lies_in_the_grid_comes_back_within_half_a_step(
    dtype: Dtype, one_sided: bool, seed: int, length: int, scale: float, maps: bool
) -> None:
    shape = (length, 3, 2) if maps else (length,)
    z = sample((300, *shape), seed, one_sided, scale)
    codec = Codec.fit(dtype, z)
    stored = codec.encode(z)
    stored_dtype, stored_shape = layout(dtype, shape)
    assert stored.dtype == stored_dtype
    assert stored.shape == (300, *stored_shape)
    back = codec.decode(stored)
    assert back.dtype == torch.float32
    assert back.shape == z.shape
    low, step = codec.low, codec.step
    high = low + step * codec.top
    nearest = z.clamp(low, high)
    # Half a step, and the rounding of float32 in z, low and q step.
    slack = 1e-5 * (z.abs() + low.abs() + high.abs())
    assert ((back - nearest).abs() <= step / 2 + slack).all()
    outside = int(((z - low) / step < -0.5).sum() + ((z - low) / step > codec.top + 0.5).sum())
    assert abs(codec.clipped - outside) <= 2  # ties
    assert codec.written == z.numel()
    if one_sided:
        assert (low == 0).all()
        assert (back[z == 0] == 0).all()


@pytest.mark.parametrize("length", [1, 2, 5, 8])
def test_packing_of_four_bits_is_exact(length: int) -> None:
    """Every pair of values, in every place, and nothing of the neighbours."""
    codec = Codec("uint4", (length,), (torch.zeros(length), torch.ones(length)))
    rng = np.random.default_rng(0)
    z = torch.from_numpy(rng.integers(16, size=(5_000, 2, length)).astype(np.float32))
    stored = codec.encode(z)
    assert stored.shape == (5_000, 2, -(-length // 2))
    assert torch.equal(codec.decode(stored), z)
    if length > 1:
        assert len({(a, b) for a, b in z[:, 0, :2].int().tolist()}) == 256
    assert codec.clipped == 0


@pytest.mark.parametrize("dtype", INTEGERS)
def test_saturation(dtype: Dtype) -> None:
    codec = Codec(dtype, (2,), (torch.tensor([0.0, -1.0]), torch.tensor([0.5, 0.25])))
    z = torch.tensor([[-3.0, 1e9], [torch.inf, -torch.inf], [0.2, -1.1], [0.5, -0.6]])
    back = codec.decode(codec.encode(z))
    top = codec.top
    assert back.tolist() == [[0, -1 + top / 4], [top / 2, -1], [0, -1], [0.5, -0.5]]
    assert (codec.clipped, codec.written) == (4, 8)


def test_grids_that_outliers_do_not_spoil() -> None:
    z = sample((4_000, 6), 1, one_sided=True)
    z[0, 0] = 1e6
    low, step = grid(z, "uint8")
    assert step.max() / step.min() < 1.5
    assert (low == 0).all()
    z[:, 1] = 0  # silent
    z[:, 2] = 0
    z[17, 2] = 1.2  # spoke once
    _, step = grid(z, "uint8")
    assert float(step[1]) == pytest.approx(float(step[3:].median()) * NARROWEST, rel=0.3)
    assert float(step[2]) * 255 == pytest.approx(1.2)
    two_sided = sample((4_000, 3), 2, one_sided=False) + torch.tensor([5.0, 0.0, -5.0])
    low, step = grid(two_sided, "uint4")
    assert (low + 7.5 * step).tolist() == pytest.approx([5, 0, -5], abs=0.15)
    assert low.shape == step.shape == (3,)
    low, step = grid(torch.zeros(10, 4), "uint8")
    assert (step > 0).all()
    assert torch.equal(Codec("uint8", (4,), (low, step)).decode(torch.zeros((1, 4), dtype=torch.uint8)), torch.zeros(1, 4))


def test_the_ends_of_a_grid_are_quantiles() -> None:
    z = sample((2_000, 1), 3, one_sided=False)
    low, step = grid(z, "uint4")
    ordered = z[:, 0].double().sort().values
    assert float(low) == pytest.approx(float(ordered[round(1999 * 0.005)]))
    assert float(low + 15 * step) == pytest.approx(float(ordered[round(1999 * 0.995)]), abs=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_state(dtype: Dtype) -> None:
    z = sample((100, 7), 4, one_sided=False, scale=3)
    codec = Codec.fit(dtype, z)
    stored = codec.encode(10 * z)
    state = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in codec.get_state().items()}
    again = Codec.from_state(state)
    assert (again.written, again.clipped) == (codec.written, codec.clipped)
    assert torch.equal(again.decode(stored), codec.decode(stored))
    assert torch.equal(again.encode(z), codec.encode(z))


def test_half_precision_saturates_too() -> None:
    codec = Codec.fit("float16", torch.zeros(1, 3))
    back = codec.decode(codec.encode(torch.tensor([[1.0001, -1e6, 3e-5]])))
    assert back.tolist()[0] == pytest.approx([1.0, -65504, 3e-5], rel=1e-3)


def test_integers_need_a_grid() -> None:
    with pytest.raises(ValueError, match="uint4 needs a grid"):
        Codec("uint4", (3,))


def test_examples_are_bounded() -> None:
    assert examples("float32", (576,), 50_000, 1) == 0
    assert examples("uint8", (576,), 50_000, 1) == EXAMPLES
    assert examples("uint4", (576,), 7, 1) == 7
    assert examples("uint8", (32, 41, 41), 50_000, 4) * 4 * 32 * 41 * 41 * 4 <= 64_000_000


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("copies", [1, 3])
def test_a_replay_that_stores_them(dtype: Dtype, copies: int) -> None:
    """Its batches are what a codec makes of the function's results, before and after the rewrite, whole capacity gained."""
    shape, stack, obs_shape = (5,), 2, (2, 6, 6)
    replay = Replay(obs_shape, (), "u1", memory=20_000, stack=stack, seed=1)
    rng = np.random.default_rng(0)

    def results(obs: torch.Tensor) -> torch.Tensor:
        means = obs.float().mean(dim=(1, 2, 3))[:, None, None]
        return (means / 255 + 0.01 * torch.arange(copies * 5).view(1, copies, 5)).contiguous()

    def fn(obs: Obs, current: bool) -> tuple[Obs, Obs]:
        z = results(keyed(obs)[ONLY])
        return z[:, 0], z

    frames: list[np.ndarray] = []

    def observe() -> np.ndarray:
        frames.append(rng.integers(256, size=(1, 6, 6), dtype=np.uint8))
        if len(frames) == 181:
            frames[-1].fill(255)  # beyond any grid
        before = frames[-2] if len(frames) > 1 else frames[-1]
        return np.concatenate([before, frames[-1]])

    replay.begin(observe()[None])
    for i in range(150):
        replay.add([i % 250], [float(i)], [False], [False], observe()[None])
    replay.rewrite(fn, copies, dtype=dtype)
    stored_dtype, stored = layout(dtype, shape)
    assert replay.bytes_per_step == replay.bytes_for(dtype, copies, shape)
    raw = copies * int(np.prod(stored)) * stored_dtype.itemsize
    assert raw + 6 <= replay.bytes_per_step <= raw + 12
    assert replay.capacity == 20_000 // replay.bytes_per_step
    for i in range(150, 200):
        replay.add([i % 250], [float(i)], [False], [False], observe()[None])
    batch = replay.sample(300)
    codec = Codec.from_state(plain(replay.get_state())["rewritten"]["obs"])
    for z, next_z, reward in zip(batch.obs, batch.next_obs, batch.reward, strict=True):
        for vector, step in ((z, int(reward)), (next_z, int(reward) + 1)):
            pair = np.concatenate(frames[max(0, step - 1) : step + 1] if step else [frames[0], frames[0]])
            expected = codec.decode(codec.encode(results(torch.from_numpy(pair)[None])[0]))
            assert any(torch.equal(vector, one) for one in expected)
    if dtype in BITS:
        stored_since = torch.cat(
            [results(torch.from_numpy(np.concatenate(frames[i - 1 : i + 1]))[None]) for i in range(151, 201)]
        )
        codec.written = codec.clipped = 0
        codec.encode(stored_since)
        assert replay.clipped == codec.clipped / codec.written > 0
    else:
        assert np.isnan(replay.clipped)
    other = Replay(obs_shape, (), "u1", memory=20_000, stack=stack, seed=9)
    go_on(other, replay, fn)
    one, two = replay.sample(50), other.sample(50)
    assert torch.equal(one.obs, two.obs)
    assert other.bytes_per_step == replay.bytes_per_step


@pytest.mark.parametrize("dtype", INTEGERS)
def test_the_grid_is_on_every_device_that_needs_it(dtype: Dtype) -> None:
    """A thread may decode on one device while another encodes on a second: no one takes the grid away from it."""
    examples = sample((40, 6), 0, one_sided=True)
    codec = Codec.fit(dtype, examples)
    stored = codec.encode(examples)
    expected = codec.decode(stored)
    assert codec.decode(stored.to("meta")).device.type == "meta"
    assert codec.low.device.type == codec.step.device.type == "cpu"
    assert torch.equal(codec.decode(stored), expected)
