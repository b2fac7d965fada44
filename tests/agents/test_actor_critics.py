"""SAC, RAD, CURL and DrQ-v2: their formulas against calculations of another kind, and that they learn."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from seer_rl.agents.augment import center_crop
from seer_rl.agents.curl import CURL, CURLConfig
from seer_rl.agents.drqv2 import DrQv2, DrQv2Config
from seer_rl.agents.networks import initialize, polyak_update
from seer_rl.agents.sac import RAD, SAC, RADConfig, SACConfig
from seer_rl.replay.replay import Batch, Replay
from seer_rl.seer import freeze

SHAPE, A = (3, 16, 16), 2  # the smallest image that sac-ae takes
SMALL: dict[str, Any] = {"hidden": 32, "learning_starts": 0}
Agent = SAC | DrQv2


def batch(size: int = 6, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Batch:
    g = torch.Generator().manual_seed(seed)
    obs, next_obs = (torch.randint(0, 256, (size, *shape), dtype=torch.uint8, generator=g) for _ in range(2))
    discount = torch.where(torch.rand(size, generator=g) < 0.3, 0.0, 0.99)
    return Batch(
        obs, torch.rand(size, A, generator=g) * 2 - 1, torch.randn(size, generator=g), discount, next_obs,
        np.arange(size), torch.rand(size, generator=g),
    )  # fmt: skip


def sac(**settings: float) -> SAC:
    torch.manual_seed(0)
    return SAC(SACConfig(**SMALL | settings), SHAPE, A)


def mlp_by_hand(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """fc4(relu(fc3(relu(fc2 x)))) in float64."""
    w = {name: p.detach().double() for name, p in module.named_parameters()}
    x = (x.double() @ w["hidden.fc2.weight"].T + w["hidden.fc2.bias"]).clamp(min=0)
    x = (x @ w["hidden.fc3.weight"].T + w["hidden.fc3.bias"]).clamp(min=0)
    return x @ w["fc4.weight"].T + w["fc4.bias"]


def embed_by_hand(module: nn.Module, obs: torch.Tensor, summand: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """The actor's and the critic's embedding in float64: convolutions as sums over shifted images, then fc and LayerNorm.

    Pixels are divided by 255, and `summand` is added.
    """
    w = {name: p.detach().double() for name, p in module.named_parameters()}
    x = obs.double() / 255 + summand
    for i, stride in enumerate((2, 1, 1, 1), start=1):
        weight, bias = w[f"conv{i}.weight"], w[f"conv{i}.bias"]
        out = (x.shape[-1] - 3) // stride + 1
        y = bias[None, :, None, None].expand(len(x), -1, out, out).clone()
        for r in range(3):
            for c in range(3):
                window = x[:, :, r : r + stride * (out - 1) + 1 : stride, c : c + stride * (out - 1) + 1 : stride]
                y += torch.einsum("bihw,oi->bohw", window, weight[:, :, r, c])
        x = y.clamp(min=0)
    found = []
    for owner in ("actor", "critic"):
        z = x.flatten(1) @ w[f"embedding.{owner}.fc1.weight"].T + w[f"embedding.{owner}.fc1.bias"]
        z = (z - z.mean(1, keepdim=True)) / (z.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        found.append(z * w[f"embedding.{owner}.norm.weight"] + w[f"embedding.{owner}.norm.bias"])
    return found[0], found[1]


def test_log_probabilities_are_those_of_a_squashed_gaussian() -> None:
    agent, z = sac(), torch.randn(500, 50, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        agent.get_parameter("actor.fc4.weight").mul_(5)  # saturated actions too
        agent.generator.manual_seed(3)
        action, log_p = agent.sample(z)
        mean, log_std = agent.distribution(z)
    assert (log_std >= -10).all()
    assert (log_std <= 2).all()
    u = mean.double() + log_std.double().exp() * torch.randn(500, A, generator=torch.Generator().manual_seed(3)).double()
    normal = torch.distributions.Normal(mean.double(), log_std.double().exp())
    expected = normal.log_prob(u) - torch.log(1 - u.tanh() ** 2)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(action.double(), u.tanh(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(log_p.double(), expected.sum(dim=1), atol=1e-3, rtol=1e-4)
    assert action.abs().max() > 0.9999


def test_sac_losses_are_the_definitions_in_float64() -> None:
    agent, b = sac(), batch()
    for target in (agent.target_lower, agent.target_critic):  # others than the online ones
        for p in target.parameters():
            p.data += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    agent.generator.manual_seed(7)
    actor_z, critic_z = agent.embed(agent.encoder, agent.view(b.obs))
    difference = agent.temporal_difference(critic_z, b)
    actor_loss, log_p = agent.actor_loss(actor_z, critic_z.detach())
    temperature_loss = agent.temperature_loss(log_p)

    def policy(z: torch.Tensor, e: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, raw = mlp_by_hand(agent.actor, z).chunk(2, dim=1)
        std = (-10 + 6 * (raw.tanh() + 1)).exp()
        u = mean + std * e
        density = torch.exp(-0.5 * e**2) / (std * math.sqrt(2 * math.pi)) / (1 - u.tanh() ** 2)
        return u.tanh(), density.log().sum(1)

    def q(critic: nn.Module, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        return torch.stack([mlp_by_hand(m, torch.cat([z, a], 1)) for m in critic.children()]).squeeze(-1)

    g, alpha = torch.Generator().manual_seed(7), 0.1
    first, second = torch.randn(6, A, generator=g).double(), torch.randn(6, A, generator=g).double()
    actor_next, _ = embed_by_hand(agent.lower, b.next_obs)
    _, critic_next = embed_by_hand(agent.target_lower, b.next_obs)
    action, log_next = policy(actor_next, first)
    value = q(agent.target_critic, critic_next, action).min(0).values - alpha * log_next
    actor_now, critic_now = embed_by_hand(agent.lower, b.obs)
    expected = q(agent.critic, critic_now, b.action.double()) - (b.reward + b.discount * value)
    torch.testing.assert_close(difference.double(), expected, atol=1e-4, rtol=1e-4)
    action, log_now = policy(actor_now, second)
    expected_actor = (alpha * log_now - q(agent.critic, critic_now, action).min(0).values).mean()
    torch.testing.assert_close(actor_loss.double(), expected_actor, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(temperature_loss.double(), (alpha * (-log_now + A)).mean(), atol=1e-4, rtol=1e-4)


def test_who_trains_what() -> None:
    """The critic's loss moves convolutions and its embedding, the actor's only the actor and its embedding."""
    agent, b = sac(slow_every=1), batch()
    before = {name: p.clone() for name, p in agent.named_parameters()}
    agent.actor_optimizer.step = lambda *_: None  # type: ignore[method-assign]
    agent.update(b)
    moved = {name for name, p in agent.named_parameters() if not torch.equal(p, before[name])}
    assert not any(name.startswith(("actor", "encoder.embedding.actor")) for name in moved)
    assert {
        "encoder.conv1.weight",
        "encoder.embedding.critic.fc1.weight",
        "critic.q1.hidden.fc2.weight",
        "log_temperature",
    } <= moved

    agent = sac(slow_every=1)
    before = {name: p.clone() for name, p in agent.named_parameters()}
    agent.critic_optimizer.step = lambda *_: None  # type: ignore[method-assign]
    agent.update(b)
    moved = {name for name, p in agent.named_parameters() if not torch.equal(p, before[name])}
    assert {"actor.hidden.fc2.weight", "encoder.embedding.actor.fc1.weight"} <= moved
    assert not any(name.startswith(("critic", "encoder.conv", "encoder.embedding.critic")) for name in moved)


def test_targets_follow_at_their_pace_every_second_update() -> None:
    agent = sac()
    online, target = (
        agent.get_parameter("critic.q1.hidden.fc3.weight"),
        agent.get_parameter("target_critic.q1.hidden.fc3.weight"),
    )
    agent.update(batch(seed=1))
    assert not torch.equal(online, target)
    conv, target_conv = agent.get_parameter("encoder.conv2.weight"), agent.get_parameter("target_encoder.conv2.weight")
    old, old_conv = target.clone(), target_conv.clone()
    agent.update(batch(seed=2))
    torch.testing.assert_close(target, old * 0.99 + online * 0.01)
    torch.testing.assert_close(target_conv, old_conv * 0.95 + conv * 0.05)
    module, other = nn.Linear(2, 2), nn.Linear(2, 2)
    polyak_update(module, other, 1.0)
    assert torch.equal(module.weight, other.weight)


def test_initial_convolutions_are_orthogonal_in_the_centre_and_nothing_else() -> None:
    layer = nn.Conv2d(32, 32, 3)
    initialize(layer)
    centre = layer.weight[:, :, 1, 1].double()
    torch.testing.assert_close(centre @ centre.T, 2 * torch.eye(32, dtype=torch.float64), atol=1e-5, rtol=0)  # gain sqrt 2
    assert layer.weight.count_nonzero() <= 32 * 32


def test_the_contrastive_loss_is_infonce() -> None:
    torch.manual_seed(0)
    agent = CURL(CURLConfig(crop=16, **SMALL), (3, 20, 20), A)
    anchor, positive = batch(seed=1).obs, batch(seed=2).obs
    for p in agent.target_lower.parameters():
        p.data += 0.05
    q, k = embed_by_hand(agent.lower, anchor)[1], embed_by_hand(agent.target_lower, positive)[1]
    expected = 0.0
    for i in range(6):
        logits = [float(q[i] @ agent.similarity.detach().double() @ k[j]) for j in range(6)]
        expected -= (logits[i] - max(logits) - math.log(sum(math.exp(x - max(logits)) for x in logits))) / 6
    assert agent.contrastive_loss(anchor, positive).item() == pytest.approx(expected, rel=1e-4)


def test_curl_tells_images_apart_with_practice_and_moves_only_encoder_and_similarity() -> None:
    torch.manual_seed(0)
    agent = CURL(CURLConfig(crop=16, **SMALL), (3, 20, 20), A)
    images = batch(size=12, shape=(3, 20, 20))
    losses = [float(agent.update(images)[0]["losses/contrastive"]) for _ in range(60)]
    assert losses[0] > 1.0
    assert losses[-1] < 0.7 * losses[0]
    trained = {id(p) for group in agent.contrastive_optimizer.param_groups for p in group["params"]}
    names = {name for name, p in agent.named_parameters() if id(p) in trained}
    assert all(name == "similarity" or name.startswith("encoder") for name in names)
    assert not any("embedding.actor" in name for name in names)


def test_drqv2_losses_are_the_definitions_in_float64() -> None:
    torch.manual_seed(0)
    agent, b = DrQv2(DrQv2Config(shift=0, **SMALL), SHAPE, A), batch()
    for slow in (agent.target_embedding, agent.target_critic):
        for p in slow.parameters():
            p.data += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    agent.acts = 50_000
    assert agent.noise == pytest.approx(0.55)
    agent.generator.manual_seed(7)
    actor_z, critic_z = agent.embed(agent.embedding, agent.features(b.obs), b.obs)
    difference = agent.temporal_difference(critic_z, b)
    loss = agent.actor_loss(actor_z, critic_z)
    g = torch.Generator().manual_seed(7)
    first = torch.randn(6, A, generator=g).double()  # a shift by nothing draws nothing
    second = torch.randn(6, A, generator=g).double()

    def noisy(z: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
        return (mlp_by_hand(agent.actor, z).tanh() + (0.55 * e).clamp(-0.3, 0.3)).clamp(-1, 1)

    def q(critic: nn.Module, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        return torch.stack([mlp_by_hand(m, torch.cat([z, a], 1)) for m in critic.children()]).squeeze(-1)

    # The properties put the modules into a Sequential: name them as embed_by_hand does.
    online, target = nn.Module(), nn.Module()
    for module, embedding in ((online, agent.embedding), (target, agent.target_embedding)):
        for name, child in agent.encoder.lower.named_children():
            module.add_module(name, child)
        module.add_module("embedding", embedding)
    actor_next = embed_by_hand(online, b.next_obs, -0.5)[0].tanh()
    critic_next = embed_by_hand(target, b.next_obs, -0.5)[1].tanh()
    actor_now, critic_now = (x.tanh() for x in embed_by_hand(online, b.obs, -0.5))
    goal = b.reward + b.discount * q(agent.target_critic, critic_next, noisy(actor_next, first)).min(0).values
    torch.testing.assert_close(difference.double(), q(agent.critic, critic_now, b.action.double()) - goal, atol=1e-4, rtol=1e-4)
    expected = -q(agent.critic, critic_now, noisy(actor_now, second)).min(0).values.mean()
    torch.testing.assert_close(loss.double(), expected, atol=1e-4, rtol=1e-4)


def test_curls_encoder_is_stepped_by_two_adams() -> None:
    """By Adam's formula in float64, on the moments that the critics' loss left, and on new ones (Kingma & Ba, algorithm 1)."""
    agents = []
    for _ in range(2):
        torch.manual_seed(0)
        agents.append(CURL(CURLConfig(crop=16, **SMALL), (3, 20, 20), A, seed=3))
    agent, other = agents
    images = batch(shape=(3, 20, 20))
    agent.update(images)
    RAD.update(other, images)
    loss = other.contrastive_loss(other.augment(images.obs), other.augment(images.obs))
    names = [name for name, p in other.named_parameters() if name.startswith("encoder") and "embedding.actor" not in name]
    parameters = [other.get_parameter(name) for name in names]
    gradients = torch.autograd.grad(loss, [*parameters, other.similarity])
    rate = other.config.learning_rate

    def adam(g: torch.Tensor, m: torch.Tensor | float, v: torch.Tensor | float, t: int) -> torch.Tensor:
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        return rate * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)) ** 0.5 + 1e-8)

    for name, p, gradient in zip(names, parameters, gradients, strict=False):
        left, g = other.critic_optimizer.state[p], gradient.double()
        assert left["step"] == 1
        step = adam(g, left["exp_avg"].double(), left["exp_avg_sq"].double(), 2) + adam(g, 0.0, 0.0, 1)
        torch.testing.assert_close(agent.get_parameter(name).double(), p.double() - step, atol=2e-6, rtol=0, msg=name)
        assert step.abs().max() > rate  # more than one of them can make
    torch.testing.assert_close(
        agent.similarity.double(), other.similarity.double() - adam(gradients[-1].double(), 0.0, 0.0, 1), atol=2e-6, rtol=0
    )
    assert all(torch.equal(a, b) for a, b in zip(agent.critic.parameters(), other.critic.parameters(), strict=True))


def test_the_actor_learns_from_embeddings_as_the_critics_step_left_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """SAC encodes again; DrQ-v2 keeps the convolutions' features and embeds them again. Both calculated in float64."""
    agent, b = sac(slow_every=1), batch()
    before = embed_by_hand(agent.lower, b.obs)
    loss = agent.actor_loss
    seen: list[float] = []

    def check(actor_z: torch.Tensor, critic_z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for z, expected, old in zip((actor_z, critic_z), embed_by_hand(agent.lower, b.obs), before, strict=True):
            torch.testing.assert_close(z.double(), expected, atol=1e-4, rtol=1e-4)
            seen.append(float((expected - old).abs().max()))
        return loss(actor_z, critic_z)

    monkeypatch.setattr(agent, "actor_loss", check)
    agent.update(b)
    assert min(seen) > 0.01  # the step has changed them by more than the tolerance

    torch.manual_seed(0)
    drq = DrQv2(DrQv2Config(shift=0, learning_rate=1e-3, **SMALL), SHAPE, A)
    mixed = nn.Module()
    for name, child in copy.deepcopy(drq.encoder.lower).named_children():
        mixed.add_module(name, child)  # as they are before the update
    mixed.add_module("embedding", drq.embedding)
    before = embed_by_hand(mixed, b.obs, -0.5)
    drq_loss, steps = drq.actor_loss, []

    def check_drq(actor_z: torch.Tensor, critic_z: torch.Tensor) -> torch.Tensor:
        for z, expected, old in zip((actor_z, critic_z), embed_by_hand(mixed, b.obs, -0.5), before, strict=True):
            torch.testing.assert_close(z.double(), expected.tanh(), atol=1e-4, rtol=1e-4)
            steps.append(float((expected - old).abs().max()))
        return drq_loss(actor_z, critic_z)

    monkeypatch.setattr(drq, "actor_loss", check_drq)
    drq.update(b)
    assert steps[0] == 0  # the actor's embedding is not the critics' to move
    assert steps[1] > 0.01


def test_drqv2_begins_with_convolutions_that_are_orthogonal_over_the_whole_kernel() -> None:
    agent = DrQv2(DrQv2Config(), (9, 84, 84), A)
    for i in (1, 2, 3, 4):
        rows = agent.get_parameter(f"encoder.conv{i}.weight").detach().double().flatten(1)  # [32, inputs * 9]
        torch.testing.assert_close(rows @ rows.T, 2 * torch.eye(32, dtype=torch.float64), atol=1e-5, rtol=0)  # gain sqrt 2
    assert agent.get_parameter("encoder.conv1.weight").std().item() == pytest.approx(math.sqrt(2 / 81), rel=0.03)
    linear = agent.get_parameter("actor.hidden.fc2.weight").detach().double()
    torch.testing.assert_close(linear.T @ linear, torch.eye(50, dtype=torch.float64), atol=1e-5, rtol=0)


def test_drqv2_noise_fades_and_passes_gradients_where_it_is_cut() -> None:
    agent = DrQv2(DrQv2Config(**SMALL), SHAPE, A)
    for acts, noise in ((0, 1.0), (50_000, 0.55), (100_000, 0.1), (10**6, 0.1)):
        agent.acts = acts
        assert agent.noise == pytest.approx(noise)
    bias = agent.get_parameter("actor.fc4.bias")
    bias.data.fill_(3.0)  # tanh 3 = 0.995: noise is cut at 1
    agent.acts = 0
    agent.noisy_action(torch.zeros(64, 50)).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(bias.grad, torch.full((A,), 64 * (1 - math.tanh(3.0) ** 2)))


AGENTS: dict[str, Callable[..., Agent]] = {
    "sac": lambda **settings: SAC(SACConfig(**settings), SHAPE, A),
    "rad": lambda **settings: RAD(RADConfig(crop=16, **settings), (3, 20, 20), A),
    "curl": lambda **settings: CURL(CURLConfig(crop=16, **settings), (3, 20, 20), A),
    "drqv2": lambda **settings: DrQv2(DrQv2Config(shift=1, **settings), SHAPE, A),
}


@pytest.mark.parametrize("name", AGENTS)
def test_acting(name: str) -> None:
    torch.manual_seed(0)
    agent = AGENTS[name](hidden=32, learning_starts=200)
    obs = batch(size=1, shape=(3, 20, 20) if name in ("rad", "curl") else SHAPE).obs
    first = np.array([agent.act(obs) for _ in range(200)])
    assert first.dtype == np.float32
    assert np.abs(first).max() <= 1
    assert abs(first.mean()) < 0.15  # uniform: standard error 0.03
    assert first.std() == pytest.approx(1 / math.sqrt(3), abs=0.06)
    later = np.array([agent.act(obs) for _ in range(50)])
    assert len(np.unique(later[:, 0])) > 10
    agent.eval()
    assert np.array_equal(agent.act(obs), agent.act(obs))
    if name in ("rad", "curl"):  # on the middle of the image
        assert np.array_equal(agent.act(obs), agent.act(center_crop(obs, (16, 16))))
    with pytest.raises(ValueError, match="smaller than the crop of 84x84"):
        RAD(RADConfig(), (9, 64, 64), A)
    with pytest.raises(ValueError, match="too small for the sac-ae encoder"):
        SAC(SACConfig(), (9, 12, 12), A)


@pytest.mark.filterwarnings("ignore:an embedding takes more memory")  # than 16x16 pixels
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", ["sac", "drqv2"])
def test_a_time_limit_is_not_the_end_of_value(name: str, frozen: bool) -> None:
    """Reward 1 at every step, episodes cut after 5: V = 1 / (1 - 0.9) = 10. Were it an end, V would be between 1 and 4.1."""
    torch.manual_seed(0)
    extra = (
        {"initial_temperature": 1e-9, "temperature_learning_rate": 0.0, "critic_tau": 0.3} if name == "sac" else {"tau": 0.1}
    )
    agent = AGENTS[name](hidden=32, learning_starts=0, discount=0.9, learning_rate=1e-3, **extra)
    replay = Replay(SHAPE, (A,), np.float32, capacity=200, n_step=agent.config.n_step, discount=0.9)
    rng = np.random.default_rng(0)
    for step in range(150):
        if step % 5 == 0:
            replay.begin(rng.integers(0, 256, SHAPE, dtype=np.uint8)[None])
        action = rng.uniform(-1, 1, A).astype(np.float32)
        replay.add([action], [1.0], [False], [step % 5 == 4], rng.integers(0, 256, SHAPE, dtype=np.uint8)[None])
    if frozen:
        freeze(agent, replay, copies=2)
    for _ in range(500):
        agent.update(replay.sample(32))
    b = replay.sample(100)
    with torch.no_grad():
        if isinstance(agent, SAC):
            z = agent.embed(agent.encoder, b.obs)[1]
        else:
            z = agent.embed(agent.embedding, agent.features(b.obs), b.obs)[1]
        q = agent.critic(z, b.action)
    assert q.mean().item() == pytest.approx(10, rel=0.03)
    assert q.min().item() > 8


class Reach:
    """A point on a line must be brought to a mark: 16x16 images, the mark above, the point below. Reward 1 - distance."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def reset(self) -> np.ndarray:
        self.point, self.mark, self.steps = *self.rng.uniform(-1, 1, 2), 0
        return self.picture()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        self.point, self.steps = float(np.clip(self.point + 0.5 * action[0], -1, 1)), self.steps + 1
        return self.picture(), 1 - abs(self.point - self.mark), self.steps == 8

    def picture(self) -> np.ndarray:
        image, columns = np.zeros((1, 16, 16), np.uint8), np.arange(16)
        for rows, x in ((slice(0, 8), self.mark), (slice(8, 16), self.point)):
            image[0, rows] = 255 * np.exp(-(((columns - 7.5 - 6 * x) / 2) ** 2))
        return image


@pytest.mark.filterwarnings("ignore:an embedding takes more memory")  # than 16x16 pixels
@pytest.mark.parametrize("name", ["sac", "drqv2"])
def test_a_task_on_tiny_images_is_solved_with_a_freeze_halfway(name: str) -> None:
    torch.manual_seed(0)
    shared: dict[str, Any] = {
        "hidden": 64,
        "learning_starts": 200,
        "batch_size": 64,
        "discount": 0.8,
        "learning_rate": 1e-3,
        "update_every": 1,
    }
    agent: Agent
    if name == "sac":
        agent = SAC(SACConfig(**shared), (1, 16, 16), 1, seed=1)
    else:
        agent = DrQv2(DrQv2Config(noise_steps=1500, shift=0, n_step=1, **shared), (1, 16, 16), 1, seed=1)
    env, replay = Reach(seed=0), Replay((1, 16, 16), (1,), np.float32, memory=1_500_000, discount=0.8, seed=2)
    replay.begin(env.reset()[None])
    for step in range(2400):
        if step == 1200:
            freeze(agent, replay)
        action = agent.act(replay.observation)
        obs, reward, truncated = env.step(action[0].numpy())
        replay.add(action, [reward], [False], [truncated], obs[None])
        if truncated:
            replay.begin(env.reset()[None])
        if step >= 200:
            agent.update(replay.sample(64))
    agent.eval()
    assert mean_return(Reach(seed=9), lambda obs: agent.act(torch.from_numpy(obs)[None])[0].numpy()) > 7.0
    rng = np.random.default_rng(0)
    assert mean_return(Reach(seed=9), lambda _: rng.uniform(-1, 1, 1)) < 4.0  # what knows nothing gets
    best = mean_return(Reach(seed=9), None)
    assert 7.2 < best < 8


def mean_return(env: Reach, act: Callable[[np.ndarray], np.ndarray] | None, episodes: int = 30) -> float:
    """Of a policy on images, or of the best there is."""
    total = 0.0
    for _ in range(episodes):
        obs, truncated = env.reset(), False
        while not truncated:
            best = np.clip([2 * (env.mark - env.point)], -1, 1)
            obs, reward, truncated = env.step(act(obs) if act else best)
            total += reward / episodes
    return total
