"""The agents' formulas against calculations of another kind, and that they learn."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seer_rl.agents.dqn import DQN, DQNConfig
from seer_rl.agents.networks import draw_noise
from seer_rl.agents.rainbow import Rainbow, RainbowConfig, project
from seer_rl.replay.replay import Batch

SHAPE, ACTIONS = (4, 84, 84), 3


def batch(size: int = 8, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    obs, next_obs = (torch.randint(0, 256, (size, *SHAPE), dtype=torch.uint8, generator=g) for _ in range(2))
    discount = torch.where(torch.rand(size, generator=g) < 0.3, 0.0, 0.9**3)
    return Batch(
        obs, torch.randint(ACTIONS, (size,), generator=g), torch.randn(size, generator=g), discount, next_obs,
        np.arange(size), torch.rand(size, generator=g),
    )  # fmt: skip


@given(st.integers(0, 10_000), st.floats(-15, 15), st.floats(0, 1))
def test_projection_is_bellemares_loop(seed: int, reward: float, discount: float) -> None:
    atoms, low, high = 11, -10.0, 10.0
    p = torch.rand(atoms, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).softmax(0)
    support = torch.linspace(low, high, atoms, dtype=torch.float64)
    expected = np.zeros(atoms)
    for j in range(atoms):  # their algorithm 1
        b = (min(max(reward + discount * float(support[j]), low), high) - low) / ((high - low) / (atoms - 1))
        lower, upper = int(np.floor(b)), int(np.ceil(b))
        if lower == upper:
            expected[lower] += float(p[j])
        else:
            expected[lower] += float(p[j]) * (upper - b)
            expected[upper] += float(p[j]) * (b - lower)
    scalars = torch.tensor([[reward], [discount]], dtype=torch.float64)
    found = project(p[None], scalars[0], scalars[1], support)[0]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_rainbow_loss_is_the_definition() -> None:
    torch.manual_seed(0)
    agent, b = Rainbow(RainbowConfig(), SHAPE, ACTIONS, seed=3), batch()
    agent.act(b.obs[:1])  # draws noise
    with torch.no_grad():
        losses = agent.losses(b)
        for i in range(8):
            obs, next_obs = b.obs[i : i + 1], b.next_obs[i : i + 1]
            online = agent.head(agent.encoder(next_obs))[0].double().softmax(-1)
            best = max(range(ACTIONS), key=lambda a: float(online[a] @ agent.support.double()))
            target = agent.target_head(agent.target_encoder(next_obs))[0, best].double().softmax(-1)
            m = project(target[None], b.reward[i : i + 1].double(), b.discount[i : i + 1].double(), agent.support.double())[0]
            log_p = agent.head(agent.encoder(obs))[0, b.action[i]].double().log_softmax(-1)
            assert losses[i].item() == pytest.approx(-float(m @ log_p), rel=1e-4)


def test_dqn_difference_is_the_definition() -> None:
    torch.manual_seed(0)
    agent, b = DQN(DQNConfig(), SHAPE, ACTIONS), batch()
    with torch.no_grad():
        found = agent.temporal_difference(b)
        q = agent.head(agent.encoder(b.obs))
        best = agent.target_head(agent.target_encoder(b.next_obs)).max(dim=1).values
    for i in range(8):
        expected = q[i, b.action[i]] - b.reward[i] - b.discount[i] * best[i]
        assert found[i].item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("kind", ["rainbow", "dqn"])
def test_updates_reach_every_layer_copy_the_target_in_time_and_weigh_samples(kind: str) -> None:
    torch.manual_seed(0)
    agent = (
        Rainbow(RainbowConfig(target_every=3, learning_starts=1), SHAPE, ACTIONS)
        if kind == "rainbow"
        else DQN(DQNConfig(target_every=3), SHAPE, ACTIONS)
    )
    b = batch()
    before = {name: p.clone() for name, p in agent.named_parameters()}
    for update in (1, 2, 3):
        agent.act(b.obs[:1])
        metrics, errors = agent.update(b)
        assert errors.shape == (8,)
        for name, p in agent.named_parameters():
            changed = not torch.equal(p, before[name])
            assert changed == (not name.startswith("target") or update == 3), name
    for name, p in agent.named_parameters():
        if not name.startswith("target"):
            assert torch.equal(p, dict(agent.named_parameters())["target_" + name])
    if kind == "rainbow":
        expected = float((b.weight * errors).mean())
        assert metrics["losses/loss"].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("learning_starts", "update_every", "updates", "expected"),
    [
        (1, 1, 1, {10, 20, 30, 40}),
        (1, 1, 3, {10, 20, 30, 40}),  # whatever the updates per step
        (1, 4, 1, {12, 20, 32, 40}),  # at the first update after a multiple
        (1, 25, 1, {25}),  # two multiples at once are one copy
        (16, 1, 1, {20, 30, 40}),  # the multiple before learning began is none
        (20, 1, 1, {20, 30, 40}),
    ],
)
def test_rainbows_target_is_copied_at_multiples_of_agent_steps(
    learning_starts: int, update_every: int, updates: int, expected: set[int]
) -> None:
    """As the authors' loop does it: `if T >= learn_start: if T % frequency == 0: learn(); if T % target_update == 0: copy`."""
    torch.manual_seed(0)
    agent = Rainbow(RainbowConfig(hidden=4, target_every=10, learning_starts=learning_starts), SHAPE, ACTIONS)
    b, found = batch(), set()
    for step in range(1, 41):
        agent.act(b.obs[:1])
        if step >= learning_starts and step % update_every == 0:
            before = agent.target_head.state_dict()["advantage.fc2.weight"].clone()
            for _ in range(updates):
                agent.update(b)
            if not torch.equal(before, agent.target_head.state_dict()["advantage.fc2.weight"]):
                found.add(step)
    assert found == expected


def test_rainbow_begins_at_random_if_asked_to() -> None:
    torch.manual_seed(0)
    obs = batch(1).obs
    agent = Rainbow(RainbowConfig(random_steps=600, noise_std=0), SHAPE, ACTIONS)
    counts = np.bincount([int(agent.act(obs)) for _ in range(600)], minlength=ACTIONS)
    assert counts.min() > 0.6 * 600 / ACTIONS  # by chance: once in more than a million
    assert len({int(agent.act(obs)) for _ in range(50)}) == 1
    plain, other = (Rainbow(RainbowConfig(), SHAPE, ACTIONS) for _ in range(2))  # without, nothing else is drawn
    plain.act(obs)
    draw_noise(other.noisy, other.generator)
    assert torch.equal(plain.generator.get_state(), other.generator.get_state())


def test_acting_is_greedy_with_noise_in_training_and_without_in_evaluation() -> None:
    torch.manual_seed(0)
    agent = Rainbow(RainbowConfig(eval_epsilon=0.0, noise_std=5.0), SHAPE, ACTIONS)
    obs = batch(1).obs
    assert len({int(agent.act(obs)) for _ in range(50)}) > 1
    agent.eval()
    assert len({int(agent.act(obs)) for _ in range(50)}) == 1


def test_dqn_explores_less_and_less() -> None:
    agent = DQN(DQNConfig(epsilon_steps=100, epsilon_final=0.1), SHAPE, ACTIONS)
    assert agent.epsilon == 1
    obs = batch(1).obs
    for _ in range(50):
        agent.act(obs)
    assert agent.epsilon == pytest.approx(0.55)
    for _ in range(100):
        agent.act(obs)
    assert agent.epsilon == pytest.approx(0.1)
    agent.eval()
    assert agent.epsilon == agent.config.eval_epsilon


@pytest.mark.parametrize("kind", ["rainbow", "dqn"])
def test_learns_a_bandit_from_pixels(kind: str) -> None:
    """Two pictures, each with one good action: within a few hundred updates the values tell them apart."""
    torch.manual_seed(0)
    agent: Rainbow | DQN
    if kind == "rainbow":
        agent = Rainbow(RainbowConfig(learning_rate=1e-3, eval_epsilon=0), SHAPE, 2)
    else:
        agent = DQN(DQNConfig(encoder="data-efficient", learning_rate=1e-3, eval_epsilon=0), SHAPE, 2)
    pictures = torch.zeros(2, *SHAPE, dtype=torch.uint8)
    pictures[0, :, :42], pictures[1, :, 42:] = 255, 255
    which, action = torch.arange(32) % 2, torch.arange(32) // 2 % 2
    reward = (which == action).float()
    b = Batch(pictures[which], action, reward, torch.zeros(32), pictures[which], np.arange(32), torch.ones(32))
    for _ in range(150):
        agent.act(pictures[:1])
        agent.update(b)
    agent.eval()
    assert [agent.act(pictures[i : i + 1]) for i in (0, 1)] == [0, 1]
