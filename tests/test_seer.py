"""The freeze changes what is stored and nothing else."""

import subprocess
import sys
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch

from seer_rl.dqn import DQN, DQNConfig
from seer_rl.networks import draw_noise
from seer_rl.rainbow import Rainbow, RainbowConfig
from seer_rl.replay import Batch, Replay
from seer_rl.seer import freeze, paper_capacity

SHAPE, ACTIONS = (4, 84, 84), 6
Agent = Rainbow | DQN

AGENTS: dict[str, Callable[[], Agent]] = {
    "rainbow": lambda: Rainbow(RainbowConfig(), SHAPE, ACTIONS),
    "rainbow, first layer": lambda: Rainbow(RainbowConfig(), SHAPE, ACTIONS, layers=1),
    "rainbow, canonical": lambda: Rainbow(RainbowConfig(encoder="canonical"), SHAPE, ACTIONS),
    "dqn": lambda: DQN(DQNConfig(), SHAPE, ACTIONS),
    "dqn, data-efficient": lambda: DQN(DQNConfig(encoder="data-efficient"), SHAPE, ACTIONS),
}


def fill(replay: Replay, steps: int, seed: int = 0) -> None:
    """Episodes of 30 steps of moving noise, each stack as an environment would give it."""
    rng = np.random.default_rng(seed)
    frames: list[np.ndarray] = []
    for step in range(steps):
        if step % 30 == 0:
            frames = [rng.integers(0, 256, (1, 84, 84), dtype=np.uint8)] * 4
            replay.start(np.concatenate(frames))
        frames = [*frames[1:], rng.integers(0, 256, (1, 84, 84), dtype=np.uint8)]
        replay.add(int(rng.integers(ACTIONS)), float(rng.normal()), step % 30 == 29, False, np.concatenate(frames))


def replay_for(agent: Agent, **settings: int) -> Replay:
    return Replay(SHAPE, (), np.uint8, stack=4, n_step=agent.config.n_step, **(settings or {"capacity": 400}))


def quietly(agent: Agent, replay: Replay) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # canonical embeddings are larger than frames: tested below
        freeze(agent, replay)


def gradients(agent: Agent, batch: Batch) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Loss of each transition and the gradients above the seam."""
    agent.zero_grad()
    losses = agent.losses(batch) if isinstance(agent, Rainbow) else agent.temporal_difference(batch).square()
    losses.mean().backward()  # type: ignore[no-untyped-call]
    return losses.detach(), [p.grad.clone() for p in agent.upper.parameters() if p.grad is not None]


@pytest.mark.parametrize("name", AGENTS)
def test_freeze_changes_neither_loss_nor_gradients(name: str) -> None:
    torch.manual_seed(0)
    agent = AGENTS[name]()
    replay = replay_for(agent, capacity=1000)
    fill(replay, 200)
    for _ in range(3):  # the target's convolutions are now others than the online ones
        agent.act(replay.observation)
        agent.update(replay.sample(32))
    agent.target_lower.load_state_dict(agent.lower.state_dict())  # as at T_f; heads differ
    if isinstance(agent, Rainbow):
        draw_noise(agent.noisy + agent.target_noisy, agent.generator)
    state = replay.rng.bit_generator.state
    images = replay.sample(64)
    before = gradients(agent, images)
    quietly(agent, replay)
    replay.rng.bit_generator.state = state
    embeddings = replay.sample(64)
    assert embeddings.obs.dtype == torch.float32
    assert torch.equal(images.action, embeddings.action)
    assert torch.equal(images.reward, embeddings.reward)
    after = gradients(agent, embeddings)
    torch.testing.assert_close(after[0], before[0], atol=1e-5, rtol=1e-5)
    assert len(after[1]) == len(before[1]) > 0
    for a, b in zip(after[1], before[1], strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["rainbow", "dqn"])
def test_frozen_layers_stay_bit_identical_and_heads_go_on(name: str) -> None:
    torch.manual_seed(0)
    agent = AGENTS[name]()
    replay = replay_for(agent)
    fill(replay, 100)
    for _ in range(2):
        agent.act(replay.observation)
        agent.update(replay.sample(8))
    target_head = [p.clone() for p in agent.target_upper.parameters()]
    quietly(agent, replay)
    frozen = {name: p.clone() for name, p in agent.lower.state_dict().items()}
    head = [p.clone() for p in agent.upper.parameters()]
    assert all(map(torch.equal, target_head, agent.target_upper.parameters())), "the target's head is not synchronised at T_f"
    for step in range(1000):
        if step % 100 == 0:
            agent.act(replay.observation)
        agent.update(replay.sample(2))
    for module in (agent.lower, agent.target_lower):
        assert all(torch.equal(p, frozen[name]) for name, p in module.state_dict().items())
        assert all(p.grad is None and not p.requires_grad for p in module.parameters())
    assert not any(map(torch.equal, head, agent.upper.parameters()))


def test_new_steps_are_embedded_once_and_acted_on_as_stored() -> None:
    torch.manual_seed(0)
    agent = AGENTS["rainbow"]()
    replay = replay_for(agent)
    fill(replay, 100)
    freeze(agent, replay)
    passes: list[int] = []
    agent.lower.register_forward_hook(lambda *_: passes.append(1))
    obs = np.random.default_rng(1).integers(0, 256, SHAPE, dtype=np.uint8)
    replay.start(obs)
    agent.act(replay.observation)
    replay.add(0, 0.0, False, False, obs)
    agent.act(replay.observation)
    agent.update(replay.sample(4))
    assert len(passes) == 2  # one per new observation: none in acting, none in the update
    torch.testing.assert_close(replay.observation, agent.lower(torch.from_numpy(obs)[None]))


def test_the_papers_capacity_and_the_true_one() -> None:
    assert paper_capacity(10_000, 84 * 84, 576) == 30_625
    assert paper_capacity(1_000, 3 * 100 * 100, 50, embeddings=2, copies=4) == 18_750
    agent = AGENTS["rainbow"]()
    replay = replay_for(agent, memory=70_560_000)
    assert replay.bytes_per_step == 84 * 84 + 4 + 1 + 1 + 2  # frame, reward, action, flags, alignment
    assert replay.capacity == 70_560_000 // 7064 == 9_988
    fill(replay, 60)
    freeze(agent, replay)
    assert replay.bytes_per_step == 4 * 576 + 4 + 1 + 1 + 2
    assert replay.capacity == 70_560_000 // 2312 == 30_519
    assert replay.capacity_for(np.float32, (576,)) == 30_519


def test_larger_embeddings_shrink_the_replay_with_a_warning_that_says_how_much() -> None:
    agent = AGENTS["rainbow, canonical"]()
    replay = replay_for(agent, capacity=100)
    fill(replay, 150)
    # 100 * 7064 // (4 * 3136 + 8) = 56 steps
    with pytest.warns(UserWarning, match=r"shrinks from 100 to 56 steps and its 44 oldest were dropped"):
        freeze(agent, replay)
    assert replay.capacity == replay.size == 56


def test_a_capacity_limit_returns_the_rest_of_the_arena() -> None:
    agent = AGENTS["rainbow"]()
    replay = replay_for(agent, capacity=400)
    fill(replay, 300)
    freeze(agent, replay, capacity=450)
    assert replay.capacity == 450
    assert replay.nbytes == replay.size * 2312


MEMORY = """
import re, sys
import numpy as np, torch
from seer_rl.rainbow import Rainbow, RainbowConfig
from seer_rl.replay import Replay
from seer_rl.seer import freeze
from seer_rl.train import tune_cpu

def status(key):
    return int(re.search(key + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1000

tune_cpu()
torch.set_num_threads(1)
agent = Rainbow(RainbowConfig(), (4, 84, 84), 18)
replay = Replay((4, 84, 84), (), np.uint8, capacity=50_000, stack=4, n_step=20, priority_exponent=float(sys.argv[1]))
rng = np.random.default_rng(0)
frames = rng.integers(0, 256, (64, 4, 84, 84), dtype=np.uint8)
replay.start(frames[0])
for i in range(int(sys.argv[2])):
    replay.add(i % 18, 0.0, i % 700 == 699, False, frames[i % 64])
    if i % 700 == 699:
        replay.start(frames[0])
agent.act(replay.observation)
agent.update(replay.sample(32))
before = status("VmHWM")
freeze(agent, replay)
print(replay.size, status("VmHWM") - before, before - status("VmRSS"))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("exponent", "steps"), [("0", "50000"), ("0.5", "60000")])  # exactly full; wrapped, prioritized
def test_a_freeze_of_50000_steps_needs_less_than_64_mb_more_and_gives_pages_back(exponent: str, steps: str) -> None:
    run = subprocess.run([sys.executable, "-c", MEMORY, exponent, steps], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    size, rise, fall = map(float, run.stdout.split())
    assert size > 49_990
    assert rise < 64
    assert fall > 0.9 * 50_000 * (7064 - 2312) / 1e6 - 64  # MB
