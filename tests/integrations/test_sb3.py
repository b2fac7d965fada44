"""SEER in Stable-Baselines3: what must hold before, at and after the freeze, with the library's own algorithms."""

import dataclasses
import itertools
import subprocess
import sys
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import QRDQN, TQC
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import CallbackList, ConvertCallback, EvalCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecMonitor, VecNormalize, VecTransposeImage
from torch.nn import functional as F

from seer_rl import envs
from seer_rl.convergence import Signals
from seer_rl.envs.dmc import ControlConfig
from seer_rl.integrations.sb3 import Seer, SeerBuffer, SeerExtractor
from seer_rl.seer import WhenConverged

SMALL: dict[str, dict[str, Any]] = {
    "qrdqn": {"n_quantiles": 5},
    "sac": {"net_arch": [16, 16]},
    "td3": {"net_arch": [16, 16]},
    "dqn": {},
    "dict": {"net_arch": [16, 16]},
}
ALGORITHMS: dict[str, Any] = {"dqn": DQN, "qrdqn": QRDQN, "sac": SAC, "td3": TD3, "dict": SAC}


PAIRS = [(name, f"{name}_target") for name in ("q_net", "quantile_net", "actor", "critic")]


class Keyed(gym.ObservationWrapper[Any, Any, Any]):
    """A task seen twice, once with its past and once cut to the middle, with two numbers beside."""

    def __init__(self, task: gym.Env[Any, Any]) -> None:
        super().__init__(task)
        images = {"stack": (44, 44, 9), "middle": (36, 36, 3)}  # channels last: the library puts them first
        spaces: dict[str, gym.Space[Any]] = {k: gym.spaces.Box(0, 255, s, np.uint8) for k, s in images.items()}
        self.observation_space = gym.spaces.Dict({**spaces, "numbers": gym.spaces.Box(-np.inf, np.inf, (1, 2), np.float64)})

    def observation(self, observation: Any) -> Any:
        stack = observation.transpose(1, 2, 0)
        middle = stack[4:40, 4:40, -3:]
        return {"stack": stack, "middle": middle, "numbers": np.array([[middle.mean(), middle.std()]]) / 255}


def env(kind: str) -> gym.Env[Any, Any]:
    """A real environment: a game, or a task that is drawn; episodes are short, and end by a time limit."""
    if kind in ("dqn", "qrdqn"):
        return gym.wrappers.TimeLimit(envs.make("atari/pong", training=True), 25)
    task = envs.make("dmc/cartpole-swingup", training=True, settings=ControlConfig(size=44))
    return gym.wrappers.TimeLimit(Keyed(task) if kind == "dict" else task, 20)


def vector(kind: str, count: int = 1) -> VecEnv:
    """Several at once, as the library wraps them itself."""
    several = VecMonitor(DummyVecEnv([lambda: env(kind)] * count))
    return VecTransposeImage(several) if kind == "dict" else several


def made(kind: str, seer: Seer, count: int = 1, **settings: Any) -> Any:
    """A model with small heads."""
    given: dict[str, Any] = {"replay_buffer_class": SeerBuffer, "policy_kwargs": seer.policy_kwargs(**SMALL[kind])}
    given |= {"buffer_size": 400, "learning_starts": 20, "batch_size": 8, "train_freq": 1, "seed": 1} | settings
    policy = "MultiInputPolicy" if kind == "dict" else "CnnPolicy"
    return ALGORITHMS[kind](policy, vector(kind, count), **given)


def extractors(model: Any) -> dict[str, SeerExtractor]:
    """All extractors of a model, online and target, by the name of their network."""
    names = ("q_net", "q_net_target", "quantile_net", "quantile_net_target", "actor", "critic", "actor_target", "critic_target")
    networks: dict[str, Any] = {name: getattr(model.policy, name, None) for name in names}
    return {name: network.features_extractor for name, network in networks.items() if network is not None}


def weights(model: Any) -> dict[str, torch.Tensor]:
    """Everything below the seam."""
    return {
        f"{name}.{key}": tensor.clone()
        for name, extractor in extractors(model).items()
        for key, tensor in extractor.state_dict().items()
        if ".cnn." in key
    }


class Both(SeerBuffer):
    """Gives every step to the library's own buffer, too."""

    theirs: ReplayBuffer

    def add(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: list[dict[str, Any]]) -> None:
        if not hasattr(self, "theirs"):
            kind: Any = DictReplayBuffer if isinstance(self.observation_space, gym.spaces.Dict) else ReplayBuffer
            self.theirs = kind(400, self.observation_space, self.action_space, n_envs=self.n_envs)
        self.theirs.add(obs, next_obs, action, reward, done, infos)
        super().add(obs, next_obs, action, reward, done, infos)


def transitions(sample: Any) -> list[tuple[bytes, ...]]:
    """Each transition of a batch: observation, action, reward, done, next observation (none where done)."""

    def flat(obs: Any) -> list[bytes]:
        parts = [obs] if isinstance(obs, torch.Tensor) else [obs[key].flatten(1).float() for key in sorted(obs)]
        return [b"".join(part[i].numpy().tobytes() for part in parts) for i in range(len(parts[0]))]

    rest = [x.float().numpy() for x in (sample.actions, sample.rewards, sample.dones)]
    rows = zip(flat(sample.observations), flat(sample.next_observations), *rest, strict=True)
    return [(o, a.tobytes(), r.tobytes(), d.tobytes(), b"" if d else n) for o, n, a, r, d in rows]


@pytest.mark.parametrize(("kind", "count"), [("dqn", 1), ("dqn", 8), ("sac", 2), ("dict", 2)])
def test_transitions_are_those_of_the_librarys_own_buffer(kind: str, count: int) -> None:
    """Terminal observations, time limits and several environments included; every transition is drawn sooner or later."""
    model = made(kind, Seer(50), count, replay_buffer_class=Both, learning_starts=10**6)
    for _ in range(2):  # the second call begins with a reset, in the middle of episodes
        model.learn(6 * 8 if count == 8 else 30)
    theirs, steps = model.replay_buffer.theirs, 12 if count == 8 else 60 // count
    inds, lanes = (np.array(x) for x in zip(*itertools.product(range(steps), range(count)), strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, "randint", lambda *_, **__: lanes)
        expected = transitions(theirs._get_samples(inds))
    drawn = {row for _ in range(20) for row in transitions(model.replay_buffer.sample(256))}
    assert drawn <= set(expected)
    # The newest step of a lane lacks what follows; all others are there.
    assert len(set(expected)) - len(drawn) <= count
    assert model.replay_buffer.size() >= len(expected) - count


def loss(model: Any, batch: Any) -> torch.Tensor:
    """The critics' loss of the library's `train`, without a random number: actions are means."""
    policy = model.policy
    with torch.no_grad():
        if isinstance(model, DQN):
            after = policy.q_net_target(batch.next_observations).amax(1, keepdim=True)
        elif isinstance(model, QRDQN):
            after = policy.quantile_net_target(batch.next_observations).mean(1).amax(1, keepdim=True)
        else:
            actor = getattr(policy, "actor_target", policy.actor)
            if isinstance(model, SAC):
                action = actor(batch.next_observations, deterministic=True)
            else:
                action = actor(batch.next_observations)
            after = torch.cat(policy.critic_target(batch.next_observations, action), 1).amin(1, keepdim=True)
        target = batch.rewards + (1 - batch.dones) * model.gamma * after
    if isinstance(model, DQN):
        return F.smooth_l1_loss(policy.q_net(batch.observations).gather(1, batch.actions.long()), target)
    if isinstance(model, QRDQN):
        return F.mse_loss(policy.quantile_net(batch.observations).mean(1).gather(1, batch.actions.long()), target)
    both = [F.mse_loss(q, target) for q in policy.critic(batch.observations, batch.actions)]
    total: torch.Tensor = sum(both[1:], both[0])
    if isinstance(model, SAC):  # and the actor's
        action = policy.actor(batch.observations, deterministic=True)
        total = total - torch.cat(policy.critic(batch.observations, action), 1).amin(1).mean()
    return total


@pytest.mark.parametrize("kind", ["dqn", "qrdqn", "sac", "td3", "dict"])
def test_losses_on_embeddings_are_losses_on_images_and_nothing_below_moves(kind: str) -> None:
    """Contract (a), (b), (c): the same rows, as images and as float32 embeddings; then a hundred updates."""
    seer = Seer(40)
    model = made(kind, seer, tau=0.3)
    model.learn(39)
    for online, target in PAIRS:
        found: dict[str, Any] = extractors(model)
        if online in found and target in found:  # as the freeze will do
            for key, one in found[online].images.items():
                found[target].images[key].cnn.load_state_dict(one.cnn.state_dict())
    state = model.replay_buffer.replay.rng.bit_generator.state
    before = loss(model, model.replay_buffer.sample(32)).item()
    seer.init_callback(model)
    model._total_timesteps = 100
    seer.on_training_start({}, {})
    model.num_timesteps = 40
    assert seer.on_step()
    assert model.replay_buffer.frozen
    model.replay_buffer.replay.rng.bit_generator.state = state
    batch = model.replay_buffer.sample(32)
    assert loss(model, batch).item() == pytest.approx(before, abs=1e-5)
    frozen = weights(model)
    for name, target in PAIRS:
        ours = {key.removeprefix(f"{name}."): x for key, x in frozen.items() if key.startswith(f"{name}.")}
        theirs = {key.removeprefix(f"{target}."): x for key, x in frozen.items() if key.startswith(f"{target}.")}
        assert not theirs or all(torch.equal(ours[key], x) for key, x in theirs.items())
    heads = {name: x.clone() for name, x in model.policy.named_parameters()}
    model.train(gradient_steps=100, batch_size=8)
    assert all(torch.equal(x, frozen[name]) for name, x in weights(model).items())
    assert any(not torch.equal(x, heads[name]) for name, x in model.policy.named_parameters())
    assert not any(".cnn." in name for name, _ in model.policy.named_parameters())


@pytest.mark.parametrize(
    ("kind", "count", "dtype"), [("dqn", 1, "uint8"), ("dqn", 8, "uint4"), ("sac", 2, "uint8"), ("dict", 1, "float32")]
)
def test_a_run_freezes_is_saved_and_goes_on(kind: str, count: int, dtype: Any, tmp_path: Path) -> None:
    """Contract (d), (e), (g), (i): with an evaluation on images before and after."""
    seer = Seer(40, dtype)
    memory = 40 * 60_000
    model = made(kind, seer, count, replay_buffer_kwargs={"memory": memory})
    evaluation = EvalCallback(vector(kind), eval_freq=max(1, 30 // count), n_eval_episodes=1, verbose=0)
    model.learn(88, callback=[seer, evaluation])
    replay = model.replay_buffer.replay
    assert seer.frozen_at == 40
    assert np.isfinite(evaluation.last_mean_reward)
    assert replay.memory <= memory
    assert seer.report["bytes_after"] == replay.bytes_per_step
    model.save(tmp_path / "policy")
    model.save_replay_buffer(tmp_path / "replay")
    again = type(model).load(tmp_path / "policy", env=vector(kind, count))
    again.load_replay_buffer(tmp_path / "replay")
    mine, theirs = model.replay_buffer.sample(16), again.replay_buffer.sample(16)
    for one, other in zip(mine, theirs, strict=True):
        for key in one if isinstance(one, dict) else [None]:
            assert one is None or torch.equal(one[key] if key else one, other[key] if key else other)
    obs = model.get_env().reset()
    action, _ = model.predict(obs, deterministic=True)
    np.testing.assert_array_equal(action, again.predict(obs, deterministic=True)[0])
    frozen = weights(again)
    again.learn(30, callback=Seer(40, dtype), reset_num_timesteps=False)
    assert again.num_timesteps >= 118
    assert all(torch.equal(x, frozen[name]) for name, x in weights(again).items())
    if kind != "dqn" or count > 1:
        return
    np.save(tmp_path / "obs.npy", obs)
    code = "import sys, numpy as np; from stable_baselines3 import DQN; from pathlib import Path; d = Path(sys.argv[1]);"
    code += "print(*DQN.load(d / 'policy').predict(np.load(d / 'obs.npy'), deterministic=True)[0])"
    alone = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert alone.stdout.split() == [str(a) for a in action]


def test_a_loaded_buffer_that_is_frozen_asks_for_its_encoder(tmp_path: Path) -> None:
    model = made("dqn", seer := Seer(40))
    model.learn(60, callback=seer)
    model.save_replay_buffer(tmp_path / "replay")
    model.load_replay_buffer(tmp_path / "replay")
    with pytest.raises(RuntimeError, match="callback=seer"):
        model.learn(10, reset_num_timesteps=False)
    other = made("dqn", seer := Seer(40))
    other.load_replay_buffer(tmp_path / "replay")
    with pytest.raises(ValueError, match="other convolutions made the embeddings"):
        other.learn(60, callback=seer)
    two = made("dqn", seer := Seer(40), 2)
    two.load_replay_buffer(tmp_path / "replay")
    with pytest.raises(ValueError, match="environments is 1, and the model's is 2"):
        two.learn(60, callback=seer)


def test_a_loaded_model_of_two_encoders_learns_with_seer_only(tmp_path: Path) -> None:
    """Only `Seer` knows which part of an embedding is whose."""
    model = made("sac", seer := Seer(40))
    model.learn(60, callback=seer)
    model.save(tmp_path / "policy")
    model.save_replay_buffer(tmp_path / "replay")
    again = SAC.load(tmp_path / "policy", env=vector("sac"))
    again.load_replay_buffer(tmp_path / "replay")
    again.set_logger(configure(format_strings=[]))
    with pytest.raises(RuntimeError, match="callback=seer"):
        again.train(gradient_steps=1, batch_size=8)


@pytest.mark.parametrize("how", ["loaded", "reset"])
def test_an_empty_buffer_is_filled_with_images_before_it_is_frozen(how: str, tmp_path: Path) -> None:
    """A frozen policy goes on without its buffer: two steps would make no grid for thousands to come."""
    model = made("dqn", seer := Seer(40, "uint8"))
    model.learn(60, callback=seer)
    frozen = weights(model)
    if how == "loaded":
        model.save(tmp_path / "policy")
        model = DQN.load(tmp_path / "policy", env=vector("dqn"))
    else:
        model.replay_buffer.reset()
        assert model.replay_buffer.size() == 0
    seen: list[int] = []

    def look(_locals: Any, _globals: Any) -> bool:
        seen.append(model.replay_buffer.size() * model.replay_buffer.frozen)
        return True

    model.learn(40, callback=[again := Seer(40, "uint8"), ConvertCallback(look)], reset_num_timesteps=False)
    assert seen == [0] * 32 + list(range(32, 40))  # callbacks come before a step is stored
    assert again.frozen_at == 93
    assert all(torch.equal(x, frozen[name]) for name, x in weights(model).items())


def test_returns_of_n_steps_and_frame_stacks() -> None:
    """With the library's own stacking, through a freeze: discounts are powers of gamma, up to the third, or 0."""
    stacked = VecTransposeImage(VecFrameStack(DummyVecEnv([lambda: gym.wrappers.TimeLimit(_frames(), 25)]), 4))
    seer = Seer(40)
    kwargs = {"n_steps": 3, "gamma": 0.9}
    model: Any = DQN("CnnPolicy", stacked, 400, gamma=0.9, learning_starts=20, batch_size=8, buffer_size=200, seed=0,
                replay_buffer_class=SeerBuffer, replay_buffer_kwargs=kwargs, policy_kwargs=seer.policy_kwargs())  # fmt: skip
    model.learn(60, callback=seer)
    batch = model.replay_buffer.sample(64)
    assert model.replay_buffer.frozen
    assert set(batch.discounts.flatten().tolist()) <= {0.0, *(float(np.float32(0.9**m)) for m in (1, 2, 3))}


def _frames() -> gym.Env[Any, Any]:
    """Pong without our own stack: one picture [84, 84, 1] a step."""
    import ale_py

    gym.register_envs(ale_py)
    return gym.wrappers.AtariPreprocessing(gym.make("ALE/Pong-v5", frameskip=1), grayscale_newaxis=True)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Seer("soon"), "freeze is a timestep or 'auto', not 'soon'"),  # type: ignore[arg-type]
        (lambda: Seer(40, "uint7"), "dtype is one of float32"),  # type: ignore[arg-type]
        (lambda: made("dqn", Seer(5)).learn(60, callback=Seer(5)), "would never have been trained"),
        (
            lambda: made("dqn", Seer(500)).learn(60, callback=Seer(500)),
            "give all of them reset_num_timesteps=False",
        ),
        (
            lambda: made("dqn", Seer("auto")).learn(60, callback=Seer("auto"), reset_num_timesteps=False),
            r"nobody knows how long training goes on in all, .* say when with Seer\(latest=...\)",
        ),
        (lambda: Seer(40).policy_kwargs(features_extractor_class=NatureCNN), "needs its own features_extractor_class"),
        (lambda: Seer(40).policy_kwargs(normalize_images=True), "needs its own normalize_images"),
        (lambda: made("dqn", Seer(40), replay_buffer_class=ReplayBuffer).learn(60, callback=Seer(40)), "replay_buffer_class"),
        (lambda: made("dqn", Seer(40), policy_kwargs={}).learn(60, callback=Seer(40)), r"policy_kwargs=seer.policy_kwargs\(\)"),
        (lambda: made("dqn", Seer(40), replay_buffer_kwargs={"memory": 30_000}), "a replay of 30,000 bytes holds"),
        (lambda: PPO("CnnPolicy", vector("dqn"), n_steps=8, batch_size=8).learn(8, callback=Seer(40)), "not those of PPO"),
        (lambda: SAC("MlpPolicy", gym.make("Pendulum-v1"), replay_buffer_class=SeerBuffer), "images of uint8"),
        (
            lambda: made("dqn", Seer(40), replay_buffer_kwargs={"n_steps": 3, "gamma": 0.9}).learn(60, callback=Seer(40)),
            "the model's own gamma",
        ),
        (lambda: _normalized().learn(60, callback=Seer(40)), "norm_obs=False"),
        (
            lambda: _normalized(norm_obs=False, replay_buffer_kwargs={"n_steps": 3}).learn(60, callback=Seer(40)),
            "use n_steps=1, or norm_reward=False",
        ),
        (
            lambda: made("dqn", Seer(40), learning_starts=0, replay_buffer_kwargs={"n_steps": 3}).learn(60, callback=Seer(40)),
            "set learning_starts to 3",
        ),
        (
            lambda: made("dqn", Seer(40), policy_kwargs={"features_extractor_class": SeerExtractor}).learn(
                60, callback=Seer(40)
            ),
            r"divides what it is given by 255: make it with policy_kwargs=seer.policy_kwargs\(\)",
        ),
        (lambda: _tqc().learn(60, callback=Seer(40)), "not those of TQC"),
    ],
)
def test_what_cannot_be_done_right_is_refused_in_a_sentence(build: Callable[[], Any], says: str) -> None:
    with pytest.raises((ValueError, AssertionError), match=says):
        build()


def _normalized(norm_obs: bool = True, **settings: Any) -> Any:
    seer = Seer(40)
    return DQN("CnnPolicy", VecNormalize(vector("dqn"), norm_obs=norm_obs), replay_buffer_class=SeerBuffer, buffer_size=200,
               policy_kwargs=seer.policy_kwargs(), **settings)  # fmt: skip


def _tqc() -> Any:
    """SAC's names, with critics of quantiles."""
    return TQC("CnnPolicy", vector("sac"), replay_buffer_class=SeerBuffer, buffer_size=200,
               policy_kwargs=Seer(40).policy_kwargs(net_arch=[8]))  # fmt: skip


def test_a_freeze_before_the_first_update_is_refused() -> None:
    """Episodes are longer than it takes to come: the library learns at their ends."""
    model = made("sac", seer := Seer(25, "float16"), train_freq=(5, "episode"))
    with pytest.raises(ValueError, match="a freeze at 25 comes before the first update: let it come later"):
        model.learn(60, callback=seer)
    assert not model.replay_buffer.frozen


@pytest.mark.parametrize(("freeze", "latest"), [(50, None), ("auto", 50)])
def test_a_freeze_comes_when_it_is_due_in_however_many_calls_of_learn(freeze: Any, latest: int | None) -> None:
    seer = Seer(freeze, latest=latest)
    model = made("dqn", seer, learning_starts=26)
    for end in (30, 60, 90):
        model.learn(30, callback=seer, reset_num_timesteps=False)
        assert model.num_timesteps == end
        assert seer.frozen_at == (50 if end > 50 else None)
    other = made("dqn", seer, learning_starts=26)
    other.learn(30, callback=seer, reset_num_timesteps=False)
    assert (seer.frozen_at, seer.report) == (None, {})  # what it knew of another model is forgotten


def test_a_model_is_loaded_only_to_act_with_a_buffer_of_one_step(tmp_path: Path) -> None:
    model = made("dqn", Seer(40))
    model.save(tmp_path / "model")
    obs = model.get_env().reset()
    loaded = DQN.load(tmp_path / "model", buffer_size=1)
    assert loaded.predict(obs, deterministic=True)[0] == model.predict(obs, deterministic=True)[0]


def test_an_automatic_freeze_without_a_random_players_games_says_so() -> None:
    model = made("dqn", seer := Seer("auto", latest=40), learning_starts=24)  # the first game ends at step 25
    with pytest.warns(UserWarning, match=r"no game of a random player is known, so freeze='auto' waits for step 40") as said:
        model.learn(60, callback=seer)
    assert len(said) == 1
    assert seer.frozen_at == 40


def test_saving_a_buffer_makes_no_copy_of_it(tmp_path: Path) -> None:
    model = made("dqn", seer := Seer(40))
    model.learn(60, callback=seer)
    buffer = model.replay_buffer
    assert buffer.buffer_size == buffer.replay.capacity
    segment = buffer.replay.segment(0).nbytes
    tracemalloc.start()
    model.save_replay_buffer(tmp_path / "buffer")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "buffer.pkl").stat().st_size > segment
    assert most < segment / 2


def test_a_shared_extractor_is_told_what_trains_it() -> None:
    seer = Seer(40)
    model = made("sac", seer, policy_kwargs=seer.policy_kwargs(net_arch=[8], share_features_extractor=True))
    with pytest.warns(UserWarning, match="one loss only"):
        model.learn(60, callback=seer)
    length = extractors(model)["actor"].images["image"].linear[0].in_features  # type: ignore[union-attr,index]
    assert model.replay_buffer.sample(4).observations.shape == (4, length)


def test_rewards_are_normalized_as_the_library_does() -> None:
    seer = Seer(40)
    normalized = VecNormalize(vector("dqn"), norm_obs=False)
    model: Any = DQN("CnnPolicy", normalized, replay_buffer_class=SeerBuffer, buffer_size=200, learning_starts=20, batch_size=8,
                policy_kwargs=seer.policy_kwargs(), seed=0)  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(60, callback=seer)
    state = model.replay_buffer.replay.rng.bit_generator.state
    plain = model.replay_buffer.sample(32)
    model.replay_buffer.replay.rng.bit_generator.state = state
    scaled = model.replay_buffer.sample(32, env=normalized)
    np.testing.assert_array_equal(scaled.rewards.numpy(), normalized.normalize_reward(plain.rewards.numpy()))


@pytest.mark.parametrize("kind", ["dqn", "qrdqn", "sac", "td3", "dict"])
def test_an_automatic_freeze_measures_and_comes_at_the_latest(kind: str) -> None:
    """On the library's networks: all signals are numbers, and the freeze comes in the end."""
    seer = Seer("auto", latest=70)
    model = made(kind, seer, learning_starts=30)
    model.learn(90, callback=seer)
    assert seer.frozen_at == 70
    assert isinstance(seer.when, WhenConverged)
    (signals,) = seer.when.monitor.history
    assert signals.step == 70
    assert all(np.isfinite(value) for value in dataclasses.asdict(signals).values())
    assert 0 <= signals.cka <= 1 + 1e-6
    assert len(seer.scores[True]) >= 1  # a random player's game ended before learning began


def test_the_rule_is_the_one_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all signals say so twice in a row, the freeze comes before the latest."""
    monkeypatch.setattr("seer_rl.seer.EVERY", 20)
    monkeypatch.setattr("seer_rl.integrations.sb3.EARLIEST", 45)
    monkeypatch.setattr("seer_rl.convergence.MIN_AGREEMENT", -10.0)
    monkeypatch.setattr("seer_rl.convergence.MIN_PROGRESS", -1.0)
    monkeypatch.setattr("seer_rl.convergence.MIN_CKA", 0.0)
    monkeypatch.setattr("seer_rl.convergence.NOVELTY", (0.0, np.inf))
    seer = Seer("auto", latest=110)
    model = made("dqn", seer, learning_starts=30)
    model.learn(130, callback=seer)
    assert seer.frozen_at == 60  # at 40 it was too early


def measured(seer: Seer) -> list[Signals]:
    return seer.when.monitor.history if isinstance(seer.when, WhenConverged) else []


def test_measurements_go_on_where_learning_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """And begin anew with another model, or where timesteps do."""
    monkeypatch.setattr("seer_rl.seer.EVERY", 20)
    seer = Seer("auto", latest=95)
    model, other = (made("dqn", seer, learning_starts=30) for _ in range(2))
    model.learn(100, callback=CallbackList([seer, ConvertCallback(lambda names, _: names["self"].num_timesteps < 50)]))
    assert [signals.step for signals in measured(seer)] == [40]
    model.learn(100, callback=seer, reset_num_timesteps=False)
    assert [signals.step for signals in measured(seer)] == [40, 60, 80, 95]
    assert seer.frozen_at == 95
    with pytest.raises(ValueError, match="the end, 90"):
        other.learn(90, callback=seer)
    assert not measured(seer)


@pytest.mark.parametrize(
    ("shape", "action", "numbers", "theirs", "ours"),
    [
        ((4, 84, 84), gym.spaces.Discrete(6), 3136, 56_468, [28_248, 12_568, 3_160, 1_592]),
        ((9, 100, 100), gym.spaces.Box(-1, 1, (1,)), 2 * 5184, 180_016, [90_012, 41_484, 10_380, 5_196]),
    ],
)
def test_bytes_of_a_step_are_those_of_the_page(shape: Any, action: Any, numbers: int, theirs: int, ours: list[int]) -> None:
    """docs/stable-baselines3.md, "What it saves"."""
    page = (Path(__file__).parents[2] / "docs" / "stable-baselines3.md").read_text("utf-8")
    space = gym.spaces.Box(0, 255, shape, np.uint8)
    library, buffer = ReplayBuffer(4, space, action), SeerBuffer(100, space, action)
    arrays = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
    assert sum(getattr(library, name).nbytes for name in arrays) == 4 * theirs
    dtypes: list[Any] = ["float32", "uint8", "uint4"]
    replay = buffer.replay
    assert [replay.bytes_per_step, *(replay.bytes_for(dtype, 1, (numbers,)) for dtype in dtypes)] == ours
    assert " | ".join(f"{n:,}" for n in [theirs, *ours]) in page
