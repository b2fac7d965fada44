"""The single files in CleanRL's style: one block is all of SEER in them; what holds before, at and after the freeze."""

import copy
import os
import re
import runpy
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from torch.nn import functional as F

import seer_rl
from examples import cleanrl_dqn_atari_seer, cleanrl_sac_pixels_seer
from seer_rl.envs import atari

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cleanrl.md").read_text("utf-8")
SCRIPTS: dict[str, Any] = {"dqn": cleanrl_dqn_atari_seer, "sac": cleanrl_sac_pixels_seer}
PATHS = {name: ROOT / "examples" / f"{script.__name__.rpartition('.')[2]}.py" for name, script in SCRIPTS.items()}
BLOCK = re.compile(r"^ *# SEER: begin\n(.*?)^ *# SEER: end\n", re.DOTALL | re.MULTILINE)
SMALL: dict[str, dict[str, Any]] = {
    "dqn": {"env_id": "atari/breakout", "train_frequency": 1, "target_network_frequency": 20},
    "sac": {"env_id": "dmc/cartpole-swingup", "image_size": 44},
}
COMMON = {"batch_size": 8, "buffer_size": 400, "learning_starts": 30}
BOTH = pytest.mark.parametrize("name", ["dqn", "sac"])


def flags(name: str, **given: Any) -> list[str]:
    """Return the flags of a short run on few data."""
    settings = SMALL[name] | COMMON | given
    return ["--no-cuda", "--save-model", *(f"--{key.replace('_', '-')}={value}" for key, value in settings.items())]


def played(monkeypatch: pytest.MonkeyPatch, path: Path, arguments: list[str]) -> dict[str, Any]:
    """Run a script in this process; return all its variables."""
    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    return runpy.run_path(str(path), run_name="__main__")


def spawned(cwd: Path, path: Path, arguments: list[str]) -> str:
    """Run a script as its users do; return what it printed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", str(path), *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)
    assert run.returncode == 0, run.stderr
    return run.stdout


def saved(cwd: Path) -> dict[str, torch.Tensor]:
    """Return the weights that the only run in `cwd` saved."""
    (path,) = cwd.rglob("*.pt")
    weights: dict[str, torch.Tensor] = torch.load(path, weights_only=True)
    return weights


def copied(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: tensor.clone() for key, tensor in module.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[key]) for key, tensor in one.items())


@BOTH
def test_without_the_block_a_file_is_the_algorithm_that_never_freezes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest runs by itself, and trains bit for bit as the whole file does without a freeze."""
    monkeypatch.setattr(atari, "MAX_FRAMES", 108_000)  # as in the other process
    text = PATHS[name].read_text("utf-8")
    (block,) = BLOCK.findall(text)
    assert block.count("\n") <= 15
    rest = BLOCK.sub("", text)
    assert text.count("freeze(") == block.count("freeze(") == 1
    assert not re.search(r"rewrit|embedd|frozen|seam|lower|requires_grad_", rest.partition('if __name__ == "__main__":')[2])
    for each in ("rest", "whole"):
        (tmp_path / each).mkdir()
    (tmp_path / "rest" / "script.py").write_text(rest)
    printed = spawned(tmp_path / "rest", tmp_path / "rest" / "script.py", flags(name, total_timesteps=60, freeze_step=50))
    assert "frozen" not in printed
    monkeypatch.chdir(tmp_path / "whole")
    end = played(monkeypatch, PATHS[name], flags(name, total_timesteps=60, freeze_step=None))
    assert not end["rb"].rewritten
    assert same(saved(tmp_path / "rest"), saved(tmp_path / "whole"))


@BOTH
def test_a_run_through_the_freeze_leaves_a_policy_that_takes_images(name: str, tmp_path: Path) -> None:
    printed = spawned(tmp_path, PATHS[name], flags(name, total_timesteps=260, freeze_step=140))
    # NatureCNN's 3136 features, or 256 of a small image; reward, action and flags
    bytes_per_step, before = {"dqn": (3136 + 24, 84 * 84 + 24), "sac": (256 + 12, 3 * 44 * 44 + 12)}[name]
    room = 400 * before // bytes_per_step
    assert f"global_step=140, frozen: {bytes_per_step:,} bytes a step, room for {room:,} steps\n" in printed
    (events,) = tmp_path.rglob("events.*")
    log = EventAccumulator(str(events)).Reload()
    told = {"charts/episodic_return", "charts/episodic_length", "charts/SPS"}
    told |= {"losses/td_loss", "losses/q_values"} if name == "dqn" else {"losses/qf1_loss", "losses/actor_loss", "losses/alpha"}
    assert told <= set(log.Tags()["scalars"])
    assert [event.step for event in log.Scalars("charts/SPS")] == [100, 200]  # on either side of the freeze
    images = torch.randint(0, 256, (3, *((4, 84, 84) if name == "dqn" else (9, 44, 44))), dtype=torch.uint8)
    weights, script, envs = saved(tmp_path), SCRIPTS[name], spaces(name)
    if name == "dqn":
        q_network = script.QNetwork(envs)
        q_network.load_state_dict(weights)
        assert q_network(images).shape == (3, 4)
    else:
        encoder, actor = script.Encoder(envs), script.Actor(envs, 256)
        torch.nn.ModuleDict({"encoder": encoder, "actor": actor}).load_state_dict(weights)
        assert actor.get_action(encoder(images))[2].shape == (3, 1)


def spaces(name: str, size: int = 44) -> Any:
    """Return what a network's constructor asks of environments: a real vector environment."""
    one = SCRIPTS[name].make_env("atari/breakout") if name == "dqn" else SCRIPTS[name].make_env("dmc/cartpole-swingup", size)
    return gym.vector.SyncVectorEnv([one], autoreset_mode=gym.vector.AutoresetMode.SAME_STEP)


@pytest.mark.parametrize(("name", "count"), [("dqn", 8), ("sac", 1)])
def test_nothing_below_the_seam_moves_after_the_freeze(
    name: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the freeze the target's layers become the online ones; a hundred updates later both are bit for bit what they were."""
    at_freeze: dict[str, Any] = {}
    real = seer_rl.freeze

    def freeze(agent: Any, replay: Any, **settings: Any) -> None:
        begun = {"online": copied(agent.lower), "target": copied(agent.target_lower)}
        assert not same(*begun.values())  # so that there is something to make equal
        real(agent, replay, **settings)
        variables = {key: copied(x) for key, x in sys.modules["__main__"].__dict__.items() if isinstance(x, torch.nn.Module)}
        at_freeze.update(agent=agent, **begun, networks=variables)

    monkeypatch.setattr(seer_rl, "freeze", freeze)
    monkeypatch.chdir(tmp_path)
    end = played(monkeypatch, PATHS[name], flags(name, total_timesteps=175, freeze_step=70, num_envs=count))
    agent, rb = at_freeze["agent"], end["rb"]
    assert rb.rewritten
    assert rb.lanes == count
    for lower in (agent.lower, agent.target_lower):
        assert same(copied(lower), at_freeze["online"])
        assert all(not p.requires_grad and p.grad is None for p in lower.parameters())
    moved = ("q_network", "target_network") if name == "dqn" else ("actor", "qf1", "qf2", "qf1_target", "qf2_target")
    for key in moved:
        before, after = at_freeze["networks"][key], copied(end[key])
        kept = {k for k in before if torch.equal(before[k], after[k])}
        assert kept == ({f"network.{i}.{part}" for i in (0, 2, 4) for part in ("weight", "bias")} if name == "dqn" else set())
    # What is acted on next is the embedding of what the environments show next, by the frozen layers.
    expected = agent.lower(torch.tensor(end["next_obs"]))
    torch.testing.assert_close(torch.as_tensor(rb.observation), expected)


def filled(name: str, steps: int = 60) -> Any:
    """Return a replay with steps of a random player."""
    envs = spaces(name)
    envs.action_space.seed(1)
    space = envs.single_observation_space
    action = envs.single_action_space
    replay: Any = seer_rl.Replay(
        space.shape or (), action.shape or (), action.dtype or "", capacity=400, stack=4 if name == "dqn" else 3, seed=1
    )
    replay.begin(envs.reset(seed=1)[0])
    for _ in range(steps):
        actions = envs.action_space.sample()
        obs, rewards, terminations, truncations, infos = envs.step(actions)
        ended = bool((terminations | truncations).any())
        replay.add(actions, rewards, terminations, truncations, infos["final_obs"][0][None] if ended else obs)
        if ended:
            replay.begin(obs)
    envs.close()
    return replay


def losses(name: str, v: dict[str, Any], batch: Any) -> torch.Tensor:
    """The algorithm's losses of a batch, by the networks among a script's variables, with the same noise each time."""
    torch.manual_seed(3)
    if name == "dqn":
        target = batch.reward + batch.discount * v["target_network"](batch.next_obs).max(1).values
        return F.mse_loss(v["q_network"](batch.obs)[torch.arange(len(target)), batch.action], target)
    after, log_pi, _ = v["actor"].get_action(v["encoder"](batch.next_obs))
    z, target_z = v["encoder"](batch.obs), v["target_encoder"](batch.next_obs)
    best = torch.stack([v[q](target_z, after) for q in ("qf1_target", "qf2_target")]).amin(0)
    target = batch.reward + batch.discount * (best - 0.1 * log_pi)
    critic = F.mse_loss(v["qf1"](z, batch.action), target) + F.mse_loss(v["qf2"](z, batch.action), target)
    pi, log_pi, _ = v["actor"].get_action(z)
    actor = (0.1 * log_pi - torch.minimum(v["qf1"](z, pi), v["qf2"](z, pi))).mean()
    return torch.stack([critic, actor])


@BOTH
@pytest.mark.filterwarnings("ignore:an embedding takes more memory than a frame")  # as float32
def test_losses_on_embeddings_are_losses_on_images(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The block itself is executed, with float32 in place of uint8, on the file's own networks and a replay of real steps."""
    (block,) = BLOCK.findall(PATHS[name].read_text("utf-8"))
    script, envs = SCRIPTS[name], spaces(name)
    torch.manual_seed(1)
    if name == "dqn":
        made = {"q_network": script.QNetwork(envs), "target_network": script.QNetwork(envs)}
        below = [(f"network.{i}.{part}") for i in (0, 2, 4) for part in ("weight", "bias")]
        online, target = made["q_network"].state_dict(), made["target_network"].state_dict()
        made["target_network"].load_state_dict(target | {key: online[key] for key in below})  # as the freeze will do
    else:
        made = {"encoder": script.Encoder(envs), "target_encoder": script.Encoder(envs), "actor": script.Actor(envs, 256)}
        made |= {q: script.SoftQNetwork(envs, 256) for q in ("qf1", "qf2", "qf1_target", "qf2_target")}
        made["target_encoder"].load_state_dict(made["encoder"].state_dict())
    rb = filled(name)
    state = copy.deepcopy(rb.rng.bit_generator.state)
    on_images, acted_on = rb.sample(32), rb.observation
    assert on_images.obs.dtype == torch.uint8
    before = losses(name, made, on_images)
    values = made["q_network"](acted_on) if name == "dqn" else made["actor"](made["encoder"](acted_on))[0]
    variables = {**vars(script), **made, "rb": rb, "global_step": 7, "args": script.Args(freeze_step=7)}
    exec(textwrap.dedent(block.replace('"uint8"', '"float32"')), variables)
    rb.rng.bit_generator.state = state
    on_embeddings = rb.sample(32)
    assert on_embeddings.obs.shape == (32, 3136 if name == "dqn" else 256)
    assert torch.equal(on_embeddings.reward, on_images.reward)
    torch.testing.assert_close(losses(name, variables, on_embeddings), before, rtol=0, atol=1e-5)
    acted_on = rb.observation
    after = variables["q_network"](acted_on) if name == "dqn" else variables["actor"](variables["encoder"](acted_on))[0]
    torch.testing.assert_close(after, values, rtol=0, atol=1e-5)
    assert "global_step=7, frozen: " in capsys.readouterr().out


@pytest.mark.parametrize(("name", "count"), [("dqn", 1), ("dqn", 8), ("sac", 2)])
def test_transitions_are_those_of_the_environments(
    name: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same actions again, in one environment after the other: terminations, truncations, resets."""
    actions: list[Any] = []

    class Replay(seer_rl.Replay):
        def add(self, action: Any, *rest: Any, **lanes: Any) -> None:
            actions.append(np.array(action))
            super().add(action, *rest, **lanes)

    monkeypatch.setattr(seer_rl, "Replay", Replay)
    monkeypatch.chdir(tmp_path)
    steps = 140 if name == "sac" else 60 if count == 8 else 120
    given = flags(name, total_timesteps=steps, freeze_step=None, num_envs=count, learning_starts=10**6, buffer_size=5_000)
    rb = played(monkeypatch, PATHS[name], given)["rb"]
    expected, ends = set(), set()
    for lane in range(count):
        env = seer_rl.make("atari/breakout", training=True) if name == "dqn" else spaces(name).envs[0]
        obs, _ = env.reset(seed=1 + lane)
        for taken in actions:
            action = taken[lane]
            after, reward, terminated, truncated, _ = env.step(action)
            numbers = np.float32(reward).tobytes(), np.float32(0 if terminated else 0.99).tobytes()
            expected.add((obs.tobytes(), action.tobytes(), *numbers, b"" if terminated else after.tobytes()))
            ends |= {"terminated"} if terminated else {"truncated"} if truncated else set()
            obs = env.reset()[0] if terminated or truncated else after
        env.close()
    assert ends == ({"terminated", "truncated"} if name == "dqn" else {"truncated"})
    assert len(rb) == count * steps
    drawn: set[Any] = set()
    for _ in range(100):  # far fewer are enough
        batch = rb.sample(256)
        columns = (x.numpy() for x in (batch.obs, batch.action, batch.reward, batch.discount, batch.next_obs))
        for obs, action, reward, discount, after in zip(*columns, strict=True):
            *known, last = (x.tobytes() for x in (obs, action, reward, discount, after))
            drawn.add((*known, last if discount else b""))
        if drawn >= expected:
            break
    assert drawn == expected


def test_bytes_are_those_of_the_page() -> None:
    """CleanRL's buffer is a copy of Stable-Baselines3's."""
    for name in SCRIPTS:
        script, envs = SCRIPTS[name], spaces(name, 84)
        shape = envs.single_observation_space.shape
        box, thrifty = gym.spaces.Box(0, 255, shape, np.uint8), name == "dqn"
        theirs: Any = ReplayBuffer(
            10, box, envs.single_action_space, optimize_memory_usage=thrifty, handle_timeout_termination=False
        )
        arrays = [x for x in vars(theirs).values() if isinstance(x, np.ndarray)]
        row = [sum(x.nbytes for x in arrays) // 10]
        rb = seer_rl.Replay(
            shape, envs.single_action_space.shape, envs.single_action_space.dtype, capacity=100, stack=4 if thrifty else 3
        )
        features = 3136 if thrifty else script.Encoder(envs).features
        row += [rb.bytes_per_step, *(rb.bytes_for(dtype, 1, (features,)) for dtype in ("float32", "uint8"))]
        assert f" | {' | '.join(f'{n:,}' for n in row)} |\n" in PAGE
        envs.close()


@BOTH
@pytest.mark.parametrize("step", [0, 30, 31, 100, 1_000, -5])
def test_a_freeze_outside_the_training_is_refused(
    name: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = rf"^--freeze-step {step} must lie behind the first update \((by )?step 31\) and before --total-timesteps 100; None "
    with pytest.raises(SystemExit, match=words):
        played(monkeypatch, PATHS[name], flags(name, total_timesteps=100, freeze_step=step))
    assert not list(tmp_path.iterdir())


def test_a_replay_that_is_too_small_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="holds 5 steps of 7,080 bytes, but stacks of 4 and 1-step returns need at least 6"):
        played(monkeypatch, PATHS["dqn"], flags("dqn", total_timesteps=100, freeze_step=50, buffer_size=5))


@BOTH
def test_the_page_shows_the_block_as_it_is(name: str) -> None:
    """With lines around it, whose indentation alone is other."""
    text = textwrap.dedent(PATHS[name].read_text("utf-8").partition('if __name__ == "__main__":\n')[2])
    (block,) = BLOCK.findall(text)
    (shown,) = [code for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if block in code]
    assert shown in text
    assert shown.count("\n") >= block.count("\n") + 10
