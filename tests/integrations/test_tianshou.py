"""SEER in Tianshou: what must hold before, at and after the freeze, with the library's own algorithms and buffers."""

import copy
import ctypes
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

pytest.importorskip("tianshou")  # an extra

from tianshou.algorithm.algorithm_base import Algorithm
from tianshou.algorithm.modelfree.discrete_sac import DiscreteSAC, DiscreteSACPolicy
from tianshou.algorithm.modelfree.dqn import DQN, DiscreteQLearningPolicy
from tianshou.algorithm.modelfree.qrdqn import QRDQN, QRDQNPolicy
from tianshou.algorithm.modelfree.reinforce import DiscreteActorPolicy, Reinforce
from tianshou.algorithm.modelfree.sac import SAC, SACPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import (
    AsyncCollector,
    Batch,
    CachedReplayBuffer,
    Collector,
    PrioritizedReplayBuffer,
    PrioritizedVectorReplayBuffer,
    ReplayBuffer,
    VectorReplayBuffer,
)
from tianshou.data.collector import EpisodeRolloutHookMCReturn
from tianshou.env import DummyVectorEnv
from tianshou.env.atari.atari_network import DQNet, QRDQNet, ScaledObsInputActionReprNet
from tianshou.trainer import OffPolicyTrainerParams
from tianshou.utils.net.common import Net
from tianshou.utils.net.continuous import ContinuousActorProbabilistic
from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic
from tianshou.utils.torch_utils import policy_within_training_step, torch_train_mode

from seer_rl import envs
from seer_rl.envs.dmc import ControlConfig
from seer_rl.integrations.tianshou import Seer
from seer_rl.integrations.tianshou.buffer import CHUNK, nbytes, oldest_first, parts
from seer_rl.integrations.tianshou.split import Split
from seer_rl.replay.codec import DTYPES

FRAMES: dict[str, Any] = {
    "stack_num": 4,
    "ignore_obs_next": True,
    "save_only_last_obs": True,
}  # as the library's Atari examples store them
ACTIONS = gym.spaces.Discrete(6)


class Short(gym.Wrapper[Any, Any, Any, Any]):
    """Episodes of 11 steps, which end by turns in a termination and in a truncation."""

    step_count = episode = 0

    def reset(self, **settings: Any) -> Any:
        self.step_count, self.episode = 0, self.episode + 1
        return self.env.reset(**settings)

    def step(self, action: Any) -> Any:
        obs, reward, _, _, info = self.env.step(action)
        self.step_count += 1
        ended = self.step_count == 11
        return obs, float(reward) + self.step_count, ended and self.episode % 2 == 0, ended and self.episode % 2 == 1, info


def env(kind: str) -> gym.Env[Any, Any]:
    """A real environment: a game, or a task that is drawn."""
    if kind == "sac":
        return Short(envs.make("dmc/cartpole-swingup", training=True, settings=ControlConfig(size=44)))
    return Short(envs.make("atari/pong", training=True))


def algorithm(kind: str) -> Any:
    """The library's algorithm with the library's networks, small ones where it has a choice."""
    torch.manual_seed(1)
    adam = AdamOptimizerFactory(lr=1e-3)
    if kind == "dqn":
        policy: Any = DiscreteQLearningPolicy(model=DQNet(4, 84, 84, 6), action_space=ACTIONS, eps_training=0.5)
        return DQN(policy=policy, optim=adam, target_update_freq=10, n_step_return_horizon=3)
    if kind == "qrdqn":
        net: Any = ScaledObsInputActionReprNet(QRDQNet(c=4, h=84, w=84, action_shape=6, num_quantiles=5))
        return QRDQN(policy=QRDQNPolicy(model=net, action_space=ACTIONS), optim=adam, num_quantiles=5, target_update_freq=10)
    if kind == "discrete sac":  # one network below the actor and both critics
        net = ScaledObsInputActionReprNet(DQNet(4, 84, 84, 6, features_only=True, output_dim_added_layer=16))
        critics = [DiscreteCritic(preprocess_net=net, last_size=6) for _ in range(2)]
        policy = DiscreteSACPolicy(
            actor=DiscreteActor(preprocess_net=net, action_shape=6, softmax_output=False), action_space=ACTIONS
        )
        return DiscreteSAC(policy=policy, policy_optim=adam, critic=critics[0], critic_optim=adam, critic2=critics[1], tau=0.3)
    net = ScaledObsInputActionReprNet(DQNet(9, 44, 44, 1, features_only=True, output_dim_added_layer=16), 128.0)
    actor = ContinuousActorProbabilistic(preprocess_net=net, action_shape=1, unbounded=True, conditioned_sigma=True)
    policy = SACPolicy(actor=actor, action_space=gym.spaces.Box(-1, 1, (1,)))
    return SAC(policy=policy, policy_optim=adam, critic=Critic(), critic_optim=adam, critic2=Critic(), tau=0.3)


class Critic(nn.Module):
    """A user's own network: the library's critics of continuous actions have none for images."""

    def __init__(self) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(9, 16, 8, 4), nn.ReLU(), nn.Conv2d(16, 16, 4, 2), nn.ReLU(inplace=True), nn.Flatten()]
        self.net = nn.Sequential(*convolutions, nn.Linear(256, 16), nn.Tanh())
        self.last = nn.Linear(17, 1)

    def forward(self, obs: Any, act: Any, info: Any = None) -> torch.Tensor:
        z = self.net(torch.as_tensor(obs).float() / 255)
        q: torch.Tensor = self.last(torch.cat([z, torch.as_tensor(act).float().flatten(1)], dim=1))
        return q


def collector(model: Any, kind: str, buffer: Any, count: int = 1) -> Any:
    made: Any = Collector(model, DummyVectorEnv([lambda: env(kind)] * count), buffer, exploration_noise=True)
    made.reset(reset_buffer=False)
    return made


def collect(collecting: Any, steps: int) -> None:
    with policy_within_training_step(collecting.policy):
        collecting.collect(n_step=steps)


def update(model: Any, buffer: Any, times: int = 1) -> None:
    with policy_within_training_step(model.policy):
        for _ in range(times):
            model.update(buffer=buffer, sample_size=8)


def convolutions(model: Any) -> dict[str, torch.Tensor]:
    """Everything below the seam, by name: of online networks and of lagged ones."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    return {key: x.clone() for key, x in model.state_dict().items() if key.rpartition(".")[0] in names}


def lagged_as_online(model: Any) -> None:
    """Let the lagged networks have the convolutions of the online ones, as the freeze does it."""
    for pair in model._lagged_networks._lagged_network_pairs:
        both = [[m for m in network.modules() if isinstance(m, nn.Conv2d)] for network in (pair.target, pair.source)]
        for target, source in zip(*both, strict=True):
            target.load_state_dict(source.state_dict())


def losses(model: Any, buffer: Any, rows: NDArray[Any]) -> dict[str, float]:
    """What the library's own update of these rows says of its losses. Nothing is learnt, not even between two of them."""
    state = copy.deepcopy(model.state_dict())
    torch.manual_seed(3)
    with policy_within_training_step(model.policy), torch_train_mode(model), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Algorithm.Optimizer, "step", lambda self, loss: None)
        stats = model._update_with_batch(model._preprocess_batch(buffer[rows], buffer, rows))
    model.load_state_dict(state)
    found: dict[str, float] = stats.get_loss_stats_dict()
    return found


@pytest.mark.parametrize("kind", ["dqn", "qrdqn", "discrete sac", "sac"])
def test_losses_on_embeddings_are_losses_on_images_and_nothing_below_moves(kind: str) -> None:
    """Contract (a), (b), (c): the same rows, as images and as float32 embeddings; then a hundred updates."""
    model, buffer = algorithm(kind), VectorReplayBuffer(120, 2)
    seer = Seer(model, collecting := collector(model, kind, buffer, 2), freeze=50)
    collect(collecting, 30)
    update(model, buffer, 3)
    lagged_as_online(model)
    before = losses(model, buffer, np.concatenate(oldest_first(buffer)))
    for pair in model._lagged_networks._lagged_network_pairs:  # they lag again
        for module in (m for m in pair.target.modules() if isinstance(m, nn.Conv2d)):
            module.weight.data += 0.1
    names, changed = set(model.state_dict()), convolutions(algorithm(kind))
    seer.training_fn(1, 50)
    assert seer.frozen
    assert buffer.obs.ndim == 2
    after = losses(model, buffer, np.concatenate(oldest_first(buffer)))
    assert before.keys() == after.keys()
    assert [after[key] for key in before] == pytest.approx([before[key] for key in before], abs=1e-5, rel=1e-5)
    assert set(model.state_dict()) == names
    frozen = convolutions(model)
    assert frozen
    assert any(not torch.equal(x, changed[name]) for name, x in frozen.items())
    for pair in model._lagged_networks._lagged_network_pairs:
        both = [[m for m in network.modules() if isinstance(m, nn.Conv2d)] for network in (pair.target, pair.source)]
        assert all(torch.equal(a.weight, b.weight) and torch.equal(a.bias, b.bias) for a, b in zip(*both, strict=True))
    heads = {name: x.clone() for name, x in model.named_parameters()}
    assert not heads.keys() & frozen.keys()
    update(model, buffer, 100)
    assert all(torch.equal(x, frozen[name]) for name, x in convolutions(model).items())
    assert any(not torch.equal(x, heads[name]) for name, x in model.named_parameters())


class Twin:
    """Gives every step to another buffer of the library, too, as images: a hook that SEER calls before its own."""

    def __init__(self, buffer: Any) -> None:
        self.buffer = buffer

    def __call__(self, action_batch: Any, rollout_batch: Any) -> None:
        given = Batch({key: value for key, value in rollout_batch.items() if key != "dist"})
        self.buffer.add(given, buffer_ids=np.arange(len(given)))


def embedded(model: Any, images: NDArray[Any], scale: float = 1) -> torch.Tensor:
    """What the convolutions of DQN's network make of images, computed apart from the integration."""
    x = torch.as_tensor(images).float() / scale
    for layer in model.policy.model.net[0].children():
        x = layer(x)
    return x.detach()


@pytest.mark.parametrize(
    ("count", "kind", "settings"),
    [
        (1, ReplayBuffer, FRAMES),
        (1, ReplayBuffer, {}),
        (8, VectorReplayBuffer, {}),
        (3, VectorReplayBuffer, FRAMES),
        (2, VectorReplayBuffer, FRAMES | {"ignore_obs_next": False}),
        (2, PrioritizedVectorReplayBuffer, FRAMES | {"alpha": 0.5, "beta": 0.4}),
        (1, PrioritizedReplayBuffer, {"ignore_obs_next": True, "alpha": 0.5, "beta": 0.4}),
    ],
)
@pytest.mark.filterwarnings("ignore:an embedding takes more memory")
def test_transitions_are_those_of_the_librarys_own_buffer(count: int, kind: Any, settings: dict[str, Any]) -> None:
    """Contract (e), (f): stacks, terminal observations, time limits and n-step targets, before and after the freeze.

    Every ring has begun to overwrite its oldest steps at the freeze.
    """
    size: Any = (35 * count, count) if issubclass(kind, VectorReplayBuffer | PrioritizedVectorReplayBuffer) else (35,)
    model, buffer, twin = algorithm("dqn"), kind(*size, **settings), kind(*size, **settings)
    collecting = collector(model, "dqn", buffer, count)
    collecting.set_on_step_hook(Twin(twin))
    seer = Seer(model, collecting, freeze=50 * count)
    collect(collecting, 40 * count)
    update(model, buffer, 2)
    if "alpha" in settings:
        twin.weight, twin._max_prio, twin._min_prio = copy.deepcopy(buffer.weight), buffer._max_prio, buffer._min_prio
    collect(collecting, 10 * count)
    seer.training_fn(1, 50 * count)
    assert buffer.obs.shape[1:] == (3136,)
    for part in parts(buffer):
        assert (part._insertion_idx - part._ep_start_idx) % part.maxsize == part._ep_len
    whole, ends = min(len(part) for part in parts(buffer)), set()
    for more, cut in ((0, 0), (17, 3), (30, 3))[
        : 2 if count == 8 else 3
    ]:  # frames of the oldest stacks of a ring are overwritten
        if more:
            collect(collecting, more * count)
        kept = min(whole + more, 35 - cut, len(buffer) // count)
        mine, theirs = (np.concatenate([rows[-kept:] for rows in oldest_first(one)]) for one in (buffer, twin))
        a, b = buffer[mine], twin[theirs]
        for key in ("act", "rew", "terminated", "truncated", "done"):
            np.testing.assert_array_equal(a[key], b[key])
        ids = b.info.env_id  # with stack_num, the library puts these together, too
        np.testing.assert_array_equal(a.info.env_id, ids if ids.ndim == 1 else ids[:, -1])
        ends |= set(zip(b.terminated, b.truncated, strict=True))
        torch.testing.assert_close(torch.as_tensor(a.obs), embedded(model, b.obs), atol=1e-4, rtol=1e-4)
        whole_next = np.ones(len(theirs), bool)
        if settings.get("ignore_obs_next") is False:  # the library lacks frames for the first `obs_next` of an episode
            first, second = twin.prev(theirs), twin.prev(twin.prev(theirs))
            whole_next = (first != theirs) & (second != first) & (twin.prev(second) != second)
        expected_next = embedded(model, b.obs_next[whole_next])
        torch.testing.assert_close(torch.as_tensor(a.obs_next[whole_next]), expected_next, atol=1e-4, rtol=1e-4)
        ended = [
            [int(i) for i in np.flatnonzero(np.isin(rows, one.unfinished_index()))]
            for rows, one in ((mine, buffer), (theirs, twin))
        ]
        assert ended[0] == ended[1]
        returns = [
            model._preprocess_batch(batch, one, rows).returns for batch, one, rows in ((a, buffer, mine), (b, twin, theirs))
        ]
        torch.testing.assert_close(*(r[whole_next] for r in returns), atol=1e-3, rtol=1e-4)
        if "alpha" in settings:
            np.testing.assert_allclose(buffer.get_weight(mine), twin.get_weight(theirs))
    assert ends == {(False, False), (True, False), (False, True)}
    update(model, buffer, 2)


@contextmanager
def embedding(look: Callable[[NDArray[Any]], int]) -> Iterator[list[int]]:
    """List what `look` finds each time that images are embedded."""
    found: list[int] = []
    embed = Split.embed

    def watched(self: Split, images: NDArray[Any]) -> torch.Tensor:
        z = embed(self, images)
        found.append(look(images))
        return z

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Split, "embed", watched)
        yield found


def test_the_latest_observations_are_embedded_once() -> None:
    """With `obs_next` stored, each image goes through the convolutions once; what an episode begins with, too."""
    model, buffer = algorithm("dqn"), VectorReplayBuffer(120, 2)
    seer = Seer(model, collecting := collector(model, "dqn", buffer, 2), freeze=20)
    collect(collecting, 20)
    update(model, buffer)
    seer.training_fn(1, 20)
    with embedding(len) as counted:
        collect(collecting, 24)  # 12 steps; both episodes of 11 steps end after the first
    assert counted == [4, 4, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]


def made(kind: str, count: int, dtype: Any = "uint8") -> tuple[Any, Any, Any, Any]:
    """A run that is about to begin, with evaluations: algorithm, buffer, SEER, what the trainer needs."""
    model, buffer = algorithm(kind), VectorReplayBuffer(40 * count, count, **({} if kind == "sac" else FRAMES))
    return model, buffer, *trained(model, buffer, kind, count, dtype)


def trained(model: Any, buffer: Any, kind: str, count: int, dtype: Any = "uint8") -> tuple[Any, Any]:
    collecting = collector(model, kind, buffer, count)
    seer = Seer(model, collecting, freeze=40, dtype=dtype)
    testing: Any = Collector(model, DummyVectorEnv([lambda: env(kind)]), VectorReplayBuffer(12, 1))
    params = OffPolicyTrainerParams(
        training_collector=collecting, training_fn=seer.training_fn, test_collector=testing, test_step_num_episodes=1,
        max_epochs=2, epoch_num_steps=32, collection_step_num_env_steps=8, update_step_num_gradient_steps_per_sample=0.25,
        batch_size=8, verbose=False, show_progress=False,
    )  # fmt: skip
    return seer, params


def acted(model: Any, images: NDArray[Any]) -> list[float]:
    """What the policy does at images [B, C, H, W], when it does not explore."""
    with torch.no_grad():
        return np.asarray(model.policy(Batch(obs=images, info=Batch())).act, np.float64).round(4).flatten().tolist()


RUNS = {"dqn 1": ("dqn", 1, "uint8"), "dqn 8": ("dqn", 8, "uint4"), "sac 1": ("sac", 1, "float16")}


def test_runs_freeze_are_saved_and_go_on(tmp_path: Path) -> None:
    """Contract (d), (e), (g), (i), in a process that knows nothing but the files."""
    for name, run in RUNS.items():
        (tmp_path / name).mkdir()
        save(tmp_path / name, *run)
    code = "import sys; from tests.integrations.test_tianshou import go_on; go_on(sys.argv[1])"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(tmp_path)], check=True, cwd=Path(__file__).parents[2])


def save(where: Path, kind: str, count: int, dtype: Any) -> None:
    """Train through a freeze, and save what there is in the end."""
    model, buffer, seer, params = made(kind, count, dtype)
    stats = model.run_training(params)
    assert seer.frozen_at == 40
    assert stats.test_step > 0
    assert seer.report["bytes_after"] == nbytes(buffer._meta) <= seer.report["bytes_before"]
    assert len(buffer) == 64
    images = params.test_collector.buffer[:4].obs
    torch.save(model.state_dict(), where / "weights.pt")
    buffer.save_hdf5(str(where / "buffer.hdf5"))
    (where / "buffer.pickle").write_bytes(pickle.dumps(buffer))
    np.save(where / "images.npy", images)
    batch, rows = buffer.sample(16)
    np.savez(where / "batch.npz", obs=batch.obs, obs_next=batch.obs_next, act=batch.act, rew=batch.rew, rows=rows)
    np.savez(where / "acted.npz", *acted(model, images))


def go_on(folder: str) -> None:
    """Load what the runs saved, in a process of its own."""
    torch.set_num_threads(1)
    for name, (kind, count, _) in RUNS.items():
        load(Path(folder) / name, kind, count)


def load(where: Path, kind: str, count: int) -> None:
    """Take up a run."""
    images, expected = np.load(where / "images.npy"), np.load(where / "batch.npz")
    buffers = VectorReplayBuffer.load_hdf5(str(where / "buffer.hdf5")), pickle.loads((where / "buffer.pickle").read_bytes())
    for buffer in buffers:
        model = algorithm(kind)
        model.load_state_dict(torch.load(where / "weights.pt"))
        assert acted(model, images) == [float(x) for x in np.load(where / "acted.npz").values()], "the policy alone"
        seer, params = trained(model, buffer, kind, count)
        batch, rows = buffer.sample(16)
        for key, found in {**{k: batch[k] for k in ("obs", "obs_next", "act", "rew")}, "rows": rows}.items():
            np.testing.assert_array_equal(found, expected[key])
    assert acted(model, images) == [float(x) for x in np.load(where / "acted.npz").values()]
    frozen, heads, size = convolutions(model), {k: x.clone() for k, x in model.named_parameters()}, len(buffer)
    params.max_epochs, params.test_collector, params.test_step_num_episodes = 1, None, 0
    model.run_training(params)
    assert seer.frozen
    assert len(buffer) == min(size + 32, buffer.maxsize)
    assert all(torch.equal(x, frozen[name]) for name, x in convolutions(model).items())
    assert any(not torch.equal(x, heads[name]) for name, x in model.named_parameters())
    collect(params.training_collector, (11 - 32 // count % 11) * count)  # until all episodes end
    assert buffer.done[buffer.last_index].all()
    assert not len(buffer.unfinished_index())


def test_the_freeze_gives_the_images_back_as_it_goes() -> None:
    """Contract (g): beside the buffer's own bytes the freeze needs those of a chunk, and in the end those of the codes."""
    model, size = algorithm("dqn"), 1_300
    buffer = VectorReplayBuffer(size, 2)
    seer = Seer(model, collecting := collector(model, "dqn", buffer, 2), freeze=size, dtype="uint8")
    collecting.collect(n_step=size, random=True)
    update(model, buffer)
    with embedding(lambda images: resident()) as held:
        seer.online[0].embed(np.zeros((CHUNK, 4, 84, 84), np.uint8))  # PyTorch keeps some memory for its own use
        held.clear()
        before = resident()
        seer.training_fn(1, size)
    images, codes = size * 2 * 4 * 84 * 84, size * 2 * 3136  # 73 MB, 8 MB
    assert seer.report["bytes_after"] <= seer.report["bytes_before"]
    assert buffer.maxsize > 8 * size
    assert max(held) - before < 64e6  # a chunk's images and embeddings, and the examples of the grid
    assert resident() - before < codes - 0.8 * images
    assert held[-1] - before < -0.5 * images  # and not at the end only


def resident() -> int:
    """Count the bytes that this process holds, without those that are free."""
    ctypes.CDLL(None).malloc_trim(0)
    held: int = psutil.Process().memory_info().rss
    return held


@pytest.mark.parametrize("dtype", ["float16", "uint8", "uint4"])
def test_networks_read_their_own_part_of_a_code(dtype: Any) -> None:
    """Of three networks with convolutions of their own, and for what is added after the freeze, too."""
    model, buffer, twin = algorithm("sac"), VectorReplayBuffer(60, 2), VectorReplayBuffer(60, 2)
    collecting = collector(model, "sac", buffer, 2)
    collecting.set_on_step_hook(Twin(twin))
    seer = Seer(model, collecting, freeze=30, dtype=dtype)
    collect(collecting, 30)
    update(model, buffer, 2)
    seer.training_fn(1, 30)
    collect(collecting, 8)
    rows, places = (np.concatenate(oldest_first(one)) for one in (twin, buffer))
    images, codes, act = (torch.as_tensor(x) for x in (twin.obs[rows], buffer.obs[places], twin.act[rows]))
    assert codes.dtype == (torch.float16 if dtype == "float16" else torch.uint8)
    critics = [(model.critic, 1), (model.critic_old, 1), (model.critic2, 2), (model.critic2_old, 2)]
    for network, number in [(model.policy.actor, 0), *critics]:
        (split,) = (module for module in network.modules() if isinstance(module, Split))
        found: list[torch.Tensor] = []
        split.register_forward_hook(lambda module, given, result, found=found: found.append(result))
        with torch.no_grad():
            network(codes, act) if number else network(codes)
            z = images.float() / (255 if number else 128)
            for i, layer in enumerate(split.children()):
                if i == split.cut:
                    z = as_stored(z, dtype, buffer.seer["codecs"][number])
                z = layer(z)
            if split.cut == len(split):
                z = as_stored(z, dtype, buffer.seer["codecs"][number])
        # A number that lies between two steps of the grid may be rounded to either.
        assert ((found[0] - z).abs() > 1e-3 * z.abs().max()).float().mean() < 0.02


def as_stored(z: torch.Tensor, dtype: str, codec: dict[str, Any]) -> torch.Tensor:
    """Embeddings [B, n] as they are read back, computed apart from the codec."""
    if dtype == "float16":
        return z.half().float()
    top = {"uint8": 255, "uint4": 15}[dtype]
    low, step = codec["low"], codec["step"]
    read: torch.Tensor = low + step * ((z - low) / step).round().clamp(0, top)
    return read


def test_columns_that_a_hook_adds_move_along() -> None:
    """As the returns of episodes, which a hook of the library computes when an episode ends."""
    model, buffer = algorithm("dqn"), VectorReplayBuffer(60, 2)
    made: Any = collector(model, "dqn", buffer, 2)
    made.set_on_episode_done_hook(EpisodeRolloutHookMCReturn())
    seer = Seer(model, made, freeze=44, dtype="uint8")
    made.collect(n_episode=4)
    update(model, buffer)
    before = buffer.mc_return_to_go[np.concatenate(oldest_first(buffer))]
    assert len(before) == 44
    seer.training_fn(1, 44)
    np.testing.assert_array_equal(buffer.mc_return_to_go[np.concatenate(oldest_first(buffer))], before)
    made.collect(n_episode=2)
    assert len(buffer) == 66


def test_a_second_seer_takes_the_place_of_the_first() -> None:
    """As where a notebook's cell is run again."""
    model, buffer = algorithm("dqn"), ReplayBuffer(30)
    made = collector(model, "dqn", buffer)
    first, second = (Seer(model, made, 20) for _ in range(2))
    assert first.online == second.online
    assert made.get_on_step_hook() == second.on_step
    assert second.hook is None
    assert len(model.policy.model._forward_pre_hooks) == 1


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, [56_483, 25_123, 12_579, 6_307, 3_171]), (FRAMES, [7_091, 12_579, 6_307, 3_171, 1_603])],
)
@pytest.mark.filterwarnings("ignore:an embedding takes more memory")
def test_bytes_of_a_step_are_those_of_the_page(settings: dict[str, Any], expected: list[int]) -> None:
    """docs/tianshou.md, "What it saves"."""
    found = []
    for dtype in DTYPES:
        model, buffer = algorithm("dqn"), VectorReplayBuffer(24, 2, **settings)
        seer = Seer(model, made := collector(model, "dqn", buffer, 2), 12, dtype)
        collect(made, 12)
        update(model, buffer)
        seer.training_fn(1, 12)
        found.append((seer.report["bytes_before"] / seer.report["steps_before"], nbytes(buffer._meta) / buffer.maxsize))
    assert [found[0][0], *(after for _, after in found)] == expected
    page = (Path(__file__).parents[2] / "docs" / "tianshou.md").read_text("utf-8")
    assert " | ".join(f"{n:,}" for n in expected) in page


def test_an_embedding_larger_than_a_frame_leaves_fewer_steps() -> None:
    model, buffer = algorithm("dqn"), ReplayBuffer(60, **FRAMES)
    seer = Seer(model, collecting := collector(model, "dqn", buffer), freeze=60)
    collect(collecting, 60)
    update(model, buffer)
    rewards = buffer.rew[oldest_first(buffer)[0]]
    with pytest.warns(UserWarning, match="shrinks from 60 to 33 steps"):
        seer.training_fn(1, 60)
    assert len(buffer) == buffer.maxsize == 33
    np.testing.assert_array_equal(buffer.rew, rewards[-33:])
    collect(collecting, 5)
    assert buffer.last_index[0] == 4


class Plain(nn.Module):
    """A user's own network: no nn.Sequential, or something else than a division before it."""

    def __init__(self, sequential: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 8, 8, 4), nn.Linear(8 * 20 * 20, 6)
        self.net = nn.Sequential(nn.Conv2d(4, 8, 8, 4), nn.Flatten(), self.second)
        if sequential:
            del self.first
        self.sequential = sequential

    def forward(self, obs: Any, state: Any = None, info: Any = None) -> Any:
        x = torch.as_tensor(obs).float()
        return (self.net(x - x.mean()), state) if self.sequential else (self.second(self.first(x).flatten(1)), state)


class Viewed(nn.Module):
    """A user's own network, which asks for the shape of an image, looks at it twice, or augments it in training."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.net = how, nn.Sequential(nn.Conv2d(4, 8, 8, 4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 20 * 20, 6))

    def forward(self, obs: Any, state: Any = None, info: Any = None) -> Any:
        x = torch.as_tensor(obs).float()
        if self.how == "shape":
            x = x.view(-1, 4, 84, 84)
        if self.how == "augments" and self.training:
            x = x.roll(1, -1)
        beside = x.mean((1, 2, 3))[:, None] if self.how == "twice" else 0
        return self.net(x / 255) + beside, state


def with_model(model: nn.Module) -> Any:
    policy: Any = DiscreteQLearningPolicy(model=model, action_space=ACTIONS)
    return DQN(policy=policy, optim=AdamOptimizerFactory(), target_update_freq=10, n_step_return_horizon=3)


def seer_of(model: Any, buffer: Any, freeze: Any = 20, dtype: Any = "uint8", kind: str = "dqn") -> tuple[Seer, Any]:
    made = collector(model, kind, buffer)
    return Seer(model, made, freeze, dtype), made


def stepped(*given: Any, **settings: Any) -> None:
    _, made = seer_of(*given, **settings)
    collect(made, 2)


def frozen_at(step: int, updates: int, **settings: Any) -> None:
    model, buffer = algorithm("dqn"), ReplayBuffer(30)
    seer, made = seer_of(model, buffer, **settings)
    collect(made, 20)
    update(model, buffer, updates)
    seer.training_fn(1, step)


def loaded() -> None:
    """Another algorithm with a buffer that was frozen."""
    model, buffer = algorithm("dqn"), ReplayBuffer(30)
    seer, made = seer_of(model, buffer)
    collect(made, 20)
    update(model, buffer)
    seer.training_fn(1, 20)
    stepped(algorithm("dqn"), buffer)


def viewed(how: str) -> None:
    """Freeze with a network that cannot do without the image; images are as before then."""
    model, buffer = with_model(Viewed(how)), ReplayBuffer(30)
    seer, made = seer_of(model, buffer)
    collect(made, 20)
    update(model, buffer)
    images = buffer.obs.copy()
    try:
        seer.training_fn(1, 20)
    finally:
        assert not seer.frozen
        np.testing.assert_array_equal(buffer.obs, images)
        update(model, buffer)


def exchanged() -> None:
    """Weights from before the freeze are loaded after it."""
    model, buffer = algorithm("dqn"), ReplayBuffer(30)
    seer, made = seer_of(model, buffer)
    before = copy.deepcopy(model.state_dict())
    collect(made, 20)
    update(model, buffer)
    seer.training_fn(1, 20)
    collect(made, 5)
    seer.training_fn(1, 25)
    model.load_state_dict(before)
    seer.training_fn(1, 26)


class Named(gym.ObservationWrapper[Any, Any, Any]):
    """Observations in a dictionary."""

    def observation(self, observation: Any) -> Any:
        return {"image": observation}


def random_step(make: Any) -> None:
    """A step of another environment."""
    model = algorithm("dqn")
    collecting: Any = Collector(model, DummyVectorEnv([make]), ReplayBuffer(30))
    Seer(model, collecting, 20)
    collecting.reset()
    collecting.collect(n_step=1, random=True)


def in_turns() -> None:
    """A collector of environments that do not wait for each other."""
    model = algorithm("dqn")
    several = DummyVectorEnv([lambda: env("dqn")] * 2, wait_num=1)
    with pytest.warns(UserWarning, match="async"):
        collecting: Any = AsyncCollector(model, several, VectorReplayBuffer(30, 2))
    Seer(model, collecting, 20)


def hooked() -> None:
    """A freeze is due, and the collector has got another hook."""
    model, buffer = algorithm("dqn"), ReplayBuffer(30)
    seer, made = seer_of(model, buffer)
    made.set_on_step_hook(None)
    collect(made, 20)
    update(model, buffer)
    seer.training_fn(1, 20)


def unseen() -> None:
    """A freeze is due at once, in a buffer that was filled before."""
    model, buffer = algorithm("dqn"), ReplayBuffer(30)
    made = collector(model, "dqn", buffer)
    collect(made, 20)
    Seer(model, made, 20).training_fn(1, 20)


class Stack(nn.Sequential):
    """A user's own kind of sequence."""

    def features(self) -> int:
        return 8


def with_layers(*layers: nn.Module, kind: type[nn.Sequential] = nn.Sequential) -> Any:
    """A user's own network, with these layers behind its first convolution."""
    model = Plain(sequential=True)
    first, *rest = model.net
    model.net = kind(first, *layers, *rest)
    return with_model(model)


def test_dropout_behind_the_convolutions_stays_above_the_seam() -> None:
    seer, _ = seer_of(with_layers(nn.ReLU(), nn.Dropout2d()), ReplayBuffer(30))
    assert [type(layer) for layer in seer.online[0].below] == [nn.Conv2d, nn.ReLU]


def on_policy() -> Any:
    """An algorithm that learns from no replay."""
    actor = DiscreteActor(preprocess_net=Net(state_shape=4), action_shape=6)
    policy = DiscreteActorPolicy(actor=actor, action_space=ACTIONS, dist_fn=torch.distributions.Categorical)
    return Reinforce(policy=policy, optim=AdamOptimizerFactory())


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: seer_of(algorithm("dqn"), ReplayBuffer(30), freeze="auto"), "'auto' is not there"),
        (lambda: seer_of(algorithm("dqn"), ReplayBuffer(30), freeze=0), "from 1 on"),
        (lambda: seer_of(algorithm("dqn"), ReplayBuffer(30), dtype="uint7"), "dtype is one of float32"),
        (lambda: seer_of(on_policy(), ReplayBuffer(30)), "not Reinforce"),
        (lambda: seer_of(with_model(Net(state_shape=4, action_shape=6)), ReplayBuffer(30)), "networks of DQN have none"),
        (lambda: seer_of(with_model(Plain(sequential=False)), ReplayBuffer(30)), "those of Plain lie in none"),
        (lambda: stepped(with_model(Plain(sequential=True)), ReplayBuffer(30)), "may divide by a number and do nothing else"),
        (lambda: seer_of(algorithm("dqn"), CachedReplayBuffer(ReplayBuffer(30), 1, 15)), "not CachedReplayBuffer"),
        (lambda: seer_of(algorithm("dqn"), ReplayBuffer(30, **FRAMES, sample_avail=True)), "use sample_avail=False"),
        (lambda: stepped(algorithm("dqn"), ReplayBuffer(30, stack_num=4)), "stack_num=4 and save_only_last_obs=True"),
        (lambda: stepped(algorithm("dqn"), ReplayBuffer(30, save_only_last_obs=True)), "use stack_num=1 and"),
        (lambda: stepped(algorithm("dqn"), ReplayBuffer(4, **FRAMES), dtype="float32"), "holds 2 steps of 12,5"),
        (lambda: frozen_at(20, updates=0), "comes before the convolutions were trained"),
        (loaded, "load the weights saved with it"),
        (exchanged, "load the weights saved with it"),
        (lambda: viewed("shape"), "Viewed cannot do without the image itself"),
        (lambda: viewed("twice"), "Viewed gives something else without the image itself"),
        (lambda: viewed("augments"), "may divide by a number and do nothing else"),
        (lambda: random_step(lambda: Named(env("dqn"))), "one image .* not Batch"),
        (lambda: random_step(lambda: gym.make("Pendulum-v1")), r"not arrays of \(3,\)"),
        (in_turns, "not with AsyncCollector"),
        (hooked, "let the new one call seer.on_step"),
        (unseen, "no step has been collected since Seer was made"),
        (lambda: seer_of(with_layers(nn.Dropout2d(), nn.Conv2d(8, 8, 1)), ReplayBuffer(30)), "put dropout behind them"),
        (lambda: seer_of(with_layers(kind=Stack), ReplayBuffer(30)), "Stack has a features of its own"),
    ],
)
def test_what_cannot_be_done_right_is_refused_in_a_sentence(build: Callable[[], Any], says: str) -> None:
    with pytest.raises((ValueError, RuntimeError), match=says) as raised:
        build()
    assert "\n" not in str(raised.value)
