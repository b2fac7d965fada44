"""The freeze changes what is stored and nothing else."""

import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from seer_rl.agents.augment import center_crop
from seer_rl.agents.curl import CURL, CURLConfig
from seer_rl.agents.dqn import DQN, DQNConfig
from seer_rl.agents.drqv2 import DrQv2, DrQv2Config
from seer_rl.agents.networks import Pixels, draw_noise
from seer_rl.agents.rainbow import Rainbow, RainbowConfig
from seer_rl.agents.sac import RAD, SAC, RADConfig, SACConfig
from seer_rl.replay.codec import DTYPES
from seer_rl.replay.replay import Batch, Replay
from seer_rl.seer import Seam, freeze

SHAPE, ACTIONS = (4, 84, 84), 6
Agent = Rainbow | DQN

AGENTS: dict[str, Callable[[], Agent]] = {
    "rainbow": lambda: Rainbow(RainbowConfig(hidden=32), SHAPE, ACTIONS),
    "rainbow, first layer": lambda: Rainbow(RainbowConfig(hidden=32), SHAPE, ACTIONS, seam=1),
    "rainbow, canonical": lambda: Rainbow(RainbowConfig(hidden=32, encoder="canonical"), SHAPE, ACTIONS),
    "dqn": lambda: DQN(DQNConfig(hidden=32), SHAPE, ACTIONS),
    "dqn, data-efficient": lambda: DQN(DQNConfig(hidden=32, encoder="data-efficient"), SHAPE, ACTIONS),
}


def fill(replay: Replay, steps: int, seed: int = 0) -> None:
    """Episodes of 30 steps of moving noise, each stack as an environment would give it."""
    rng = np.random.default_rng(seed)
    frames: list[np.ndarray] = []
    for step in range(steps):
        if step % 30 == 0:
            frames = [rng.integers(0, 256, (1, 84, 84), dtype=np.uint8)] * 4
            replay.begin(np.concatenate(frames)[None])
        frames = [*frames[1:], rng.integers(0, 256, (1, 84, 84), dtype=np.uint8)]
        replay.add(
            [int(rng.integers(ACTIONS))], [float(rng.normal())], [step % 30 == 29], [False], np.concatenate(frames)[None]
        )


def replay_for(agent: Agent, **settings: Any) -> Replay:
    return Replay(SHAPE, (), np.uint8, stack=4, n_step=agent.config.n_step, **(settings or {"capacity": 400}))


def quietly(agent: Agent, replay: Replay) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # canonical embeddings are larger than frames: tested below
        freeze(agent, replay)


def above(agent: Agent) -> list[nn.Parameter]:
    """What is above the seam of the online network."""
    return [*agent.encoder.upper.parameters(), *agent.head.parameters()]


def gradients(agent: Agent, batch: Batch) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Loss of each transition and the gradients above the seam."""
    agent.zero_grad()
    losses = agent.losses(batch) if isinstance(agent, Rainbow) else agent.temporal_difference(batch).square()
    losses.mean().backward()  # type: ignore[no-untyped-call]
    return losses.detach(), [p.grad.clone() for p in above(agent) if p.grad is not None]


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
    target_head = [p.clone() for p in agent.target_head.parameters()]
    quietly(agent, replay)
    frozen = {name: p.clone() for name, p in agent.lower.state_dict().items()}
    head = [p.clone() for p in above(agent)]
    assert all(map(torch.equal, target_head, agent.target_head.parameters())), "the target's head is not synchronised at T_f"
    for step in range(1000):
        if step % 100 == 0:
            agent.act(replay.observation)
        agent.update(replay.sample(2))
    for module in (agent.lower, agent.target_lower):
        assert all(torch.equal(p, frozen[name]) for name, p in module.state_dict().items())
        assert all(p.grad is None and not p.requires_grad for p in module.parameters())
    assert not any(map(torch.equal, head, above(agent)))


def test_new_steps_are_embedded_once_and_acted_on_as_stored() -> None:
    torch.manual_seed(0)
    agent = AGENTS["rainbow"]()
    replay = replay_for(agent)
    fill(replay, 100)
    freeze(agent, replay)
    passes: list[int] = []
    agent.lower.register_forward_hook(lambda *_: passes.append(1))
    obs = np.random.default_rng(1).integers(0, 256, SHAPE, dtype=np.uint8)
    replay.begin(obs[None])
    agent.act(replay.observation)
    replay.add([0], [0.0], [False], [False], obs[None])
    agent.act(replay.observation)
    agent.update(replay.sample(4))
    assert len(passes) == 2  # one per new observation: none in acting, none in the update
    torch.testing.assert_close(replay.observation, agent.lower(torch.from_numpy(obs)[None]))


def test_the_true_capacity() -> None:
    agent = AGENTS["rainbow"]()
    replay = replay_for(agent, memory=70_560_000)
    assert replay.bytes_per_step == 84 * 84 + 4 + 1 + 1 + 2  # frame, reward, action, flags, alignment
    assert replay.capacity == 70_560_000 // 7064 == 9_988
    fill(replay, 60)
    freeze(agent, replay)
    assert replay.bytes_per_step == 4 * 576 + 4 + 1 + 1 + 2
    assert replay.capacity == 70_560_000 // 2312 == 30_519
    assert replay.capacity_for("float32", 1, (576,)) == 30_519
    assert [replay.bytes_for(dtype, 1, (576,)) for dtype in DTYPES] == [2_312, 1_160, 584, 296]  # docs/beyond.md
    control = Replay((9, 100, 100), (1,), np.float32, memory=10_000_000, stack=3)
    assert control.bytes_per_step == 30_012
    assert [control.bytes_for(dtype, 4, (100,)) for dtype in DTYPES] == [1_612, 812, 412, 212]


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


class Rounded(nn.Module):
    """Gives no floats."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)


@pytest.mark.parametrize(
    ("lower", "steps", "settings", "words"),
    [
        (None, 0, {}, "an empty replay cannot be rewritten"),
        (None, 40, {"dtype": "int8"}, "dtype is one of float32, float16, uint8, uint4, not 'int8'"),
        (None, 40, {"dtype": "banana"}, "not 'banana'"),
        (None, 40, {"capacity": 5}, "need at least"),
        (None, 20, {"dtype": "uint4"}, "21 stored observations are too few to make a grid of uint4"),
        (Rounded(), 40, {}, r"embeddings must be floats, not torch.uint8"),
    ],
)
def test_a_refused_freeze_changes_nothing(lower: nn.Module | None, steps: int, settings: dict[str, Any], words: str) -> None:
    """Neither the replay nor the two networks, which go on learning."""
    agent = AGENTS["rainbow"]()
    replay = replay_for(agent, capacity=100)
    fill(replay, steps)
    seam = Seam(lower or agent.lower, lower or agent.target_lower)
    with torch.no_grad():
        for parameter in agent.target_lower.parameters():
            parameter.zero_()
    with pytest.raises((RuntimeError, ValueError), match=words):
        freeze(seam, replay, **settings)
    assert not replay.rewritten
    assert all(parameter.requires_grad for parameter in agent.lower.parameters())
    assert not any(parameter.any() for parameter in agent.target_lower.parameters())


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (lambda lower: nn.ModuleDict({"inner": lower}), "it differs in conv1.weight: give two of the same layers"),
        (lambda lower: AGENTS["rainbow, canonical"]().lower, "it differs in conv1.weight"),
        (lambda lower: torch.compile(lower), "the module that was compiled"),
    ],
)
def test_a_target_that_cannot_become_a_copy_is_refused_before_anything_changes(
    target: Callable[[nn.Module], nn.Module], words: str
) -> None:
    agent = AGENTS["rainbow"]()
    replay = replay_for(agent, capacity=100)
    fill(replay, 40)
    with pytest.raises(ValueError, match=words):
        freeze(Seam(agent.lower, target(agent.target_lower)), replay)
    with pytest.raises(ValueError, match="1 or more, not 0"):
        freeze(agent, replay, copies=0)
    assert not replay.rewritten
    assert all(parameter.requires_grad for parameter in agent.lower.parameters())


def test_a_lazy_target_that_has_not_run_yet_becomes_a_copy() -> None:
    lower = nn.Sequential(Pixels(), nn.Conv2d(1, 4, 8), nn.Flatten())
    target = nn.Sequential(Pixels(), nn.LazyConv2d(4, 8), nn.Flatten())
    replay = Replay((1, 8, 8), (), np.uint8, capacity=50)
    replay.begin(np.zeros((1, 1, 8, 8), np.uint8))
    freeze(Seam(lower, target), replay)
    assert replay.rewritten
    assert all(torch.equal(x, target.state_dict()[name]) for name, x in lower.state_dict().items())


def test_an_encoder_alone_is_no_agent() -> None:
    with pytest.raises(ValueError, match=r"Pixels is no agent: give freeze Seam\(encoder, target_encoder\)"):
        freeze(Pixels(), Replay((1, 8, 8), (), np.uint8, capacity=50))  # type: ignore[arg-type]


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(4), nn.Dropout2d(0.5)])
def test_an_embedding_depends_neither_on_its_neighbours_nor_on_chance(layer: nn.Module) -> None:
    """Made at the freeze or afterwards, of one image or among others, it is what evaluation mode gives."""
    torch.manual_seed(0)
    lower = nn.Sequential(Pixels(), nn.Conv2d(1, 4, 3), layer, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for _ in range(3):
        lower(torch.randint(0, 256, (8, 1, 8, 8), dtype=torch.uint8))  # batch statistics move
    replay = Replay((1, 8, 8), (), np.uint8, capacity=100)
    images = np.random.default_rng(0).integers(0, 256, (50, 1, 1, 8, 8), dtype=np.uint8)
    replay.begin(images[0])
    for image in images[1:40]:
        replay.add([0], [0.0], [False], [False], image)
    freeze(Seam(lower, lower), replay)
    for image in images[40:]:
        lower(torch.from_numpy(image))  # as an evaluation may, in whatever mode: statistics stand still
        replay.add([0], [0.0], [False], [False], image)
    assert all(part.training for part in lower.modules())
    found = replay.aged(np.arange(50))
    with torch.no_grad():
        expected = lower.eval()(torch.from_numpy(images[::-1, 0].copy()))
    torch.testing.assert_close(found, expected)


class Halved(nn.Module):
    """Gives numbers of bfloat16, as an encoder does that computes in them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 0, 0, :4].bfloat16()


def test_observations_are_float32_whatever_the_encoder_computes_in() -> None:
    lower = Halved()
    replay = Replay((1, 8, 8), (), np.uint8, capacity=50)
    replay.begin(np.zeros((1, 1, 8, 8), np.uint8))
    freeze(Seam(lower, lower), replay)
    assert isinstance(replay.observation, torch.Tensor)
    assert replay.observation.dtype == torch.float32


def test_a_module_without_weights_can_be_below_the_seam() -> None:
    replay = Replay((1, 8, 8), (), np.uint8, capacity=50)
    replay.begin(np.full((1, 1, 8, 8), 51, np.uint8))
    pooled = nn.Sequential(Pixels(), nn.AvgPool2d(4))
    freeze(Seam(pooled, pooled), replay)
    torch.testing.assert_close(replay.observation, torch.full((1, 1, 2, 2), 0.2))


SMALL: dict[str, Any] = {"hidden": 32, "learning_starts": 0, "batch_size": 4}
CONTROL: dict[str, Callable[[], SAC | DrQv2]] = {
    "sac": lambda: SAC(SACConfig(**SMALL), (9, 40, 40), 2),
    "rad": lambda: RAD(RADConfig(crop=36, **SMALL), (9, 40, 40), 2),
    "curl": lambda: CURL(CURLConfig(crop=36, **SMALL), (9, 40, 40), 2),
    "curl, two layers": lambda: CURL(CURLConfig(crop=36, **SMALL), (9, 40, 40), 2, seam=2),
    "curl, impala": lambda: CURL(CURLConfig(crop=36, encoder="impala", **SMALL), (9, 40, 40), 2),
    "drqv2": lambda: DrQv2(DrQv2Config(**SMALL), (9, 40, 40), 2),
    "drqv2, three layers": lambda: DrQv2(DrQv2Config(**SMALL), (9, 40, 40), 2, seam=3),
}


def control(name: str, steps: int = 90) -> tuple[SAC | DrQv2, Replay]:
    """An agent after a few updates and a replay of episodes of 30 steps, each truncated."""
    torch.manual_seed(0)
    agent, rng = CONTROL[name](), np.random.default_rng(0)
    replay = Replay((9, 40, 40), (2,), np.float32, memory=60_000_000, stack=3, n_step=agent.config.n_step)
    for step in range(steps):
        if step % 30 == 0:
            replay.begin(rng.integers(0, 256, (9, 40, 40), dtype=np.uint8)[None])
        action, obs = rng.uniform(-1, 1, 2).astype(np.float32), rng.integers(0, 256, (9, 40, 40), dtype=np.uint8)
        replay.add([action], [float(rng.normal())], [False], [step % 30 == 29], obs[None])
    for _ in range(4):
        agent.update(replay.sample(4))
    return agent, replay


def freeze_quietly(agent: SAC | DrQv2, replay: Replay, copies: int) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="an embedding takes more memory")
        freeze(agent, replay, copies=copies)


def control_gradients(agent: SAC | DrQv2, batch: Batch) -> list[torch.Tensor]:
    """Losses of critic, actor and temperature, and their gradients above the seam, with the same noise each time."""
    agent.generator.manual_seed(1)
    if isinstance(agent, SAC):
        actor_z, critic_z = agent.embed(agent.encoder, agent.view(batch.obs))
        actor_loss, log_p = agent.actor_loss(actor_z, critic_z.detach())
        above = [
            *agent.encoder.upper.parameters(),
            *agent.critic.parameters(),
            *agent.actor.parameters(),
            agent.log_temperature,
        ]
        losses = [actor_loss, agent.temperature_loss(log_p.detach())]
    else:
        features = agent.features(agent.view(batch.obs))
        actor_z, critic_z = agent.embed(agent.embedding, features, batch.obs)
        above = [*agent.encoder.upper.parameters(), *agent.critic.parameters(), *agent.actor.parameters()]
        losses = [agent.actor_loss(actor_z, critic_z.detach())]
    losses.append(agent.temporal_difference(critic_z, batch).square().sum(dim=0).mean())
    gradients: list[torch.Tensor] = []
    for loss in losses:
        found = torch.autograd.grad(loss, above, retain_graph=True, allow_unused=True)
        gradients += [g for g in found if g is not None]
    return [loss.detach() for loss in losses] + gradients


@pytest.mark.parametrize("name", CONTROL)
def test_with_a_fixed_crop_control_agents_learn_the_same_before_and_after(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, replay = control(name)
    agent.target_lower.load_state_dict(agent.lower.state_dict())  # as at T_f; heads differ
    augments = name != "sac"
    if augments:  # to the middle of the image: a new tensor each time, as a random crop is
        size = agent.obs_shape[1:]
        monkeypatch.setattr(agent, "augment", lambda obs: center_crop(obs, size).clone())
    state = replay.rng.bit_generator.state
    images = replay.sample(32)
    before = control_gradients(agent, images)
    freeze_quietly(agent, replay, copies=3)
    assert replay.copies == (3 if augments else 1)
    replay.rng.bit_generator.state = state
    embeddings = replay.sample(32)
    assert embeddings.obs.dtype == torch.float32
    assert torch.equal(images.action, embeddings.action)
    after = control_gradients(agent, embeddings)
    assert len(before) == len(after) > 6
    for a, b in zip(after, before, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["sac", "curl", "drqv2", "curl, two layers"])
def test_what_control_agents_froze_stays_bit_identical(name: str) -> None:
    agent, replay = control(name)
    target_critic = [p.clone() for p in agent.target_critic.parameters()]
    freeze_quietly(agent, replay, copies=2)
    assert all(map(torch.equal, target_critic, agent.target_critic.parameters())), "the target's heads are left alone"
    frozen = {k: v.clone() for k, v in agent.lower.state_dict().items()}
    heads = {k: v.clone() for k, v in [*agent.actor.state_dict().items(), *agent.critic.state_dict().items()]}
    for _ in range(1000):
        metrics, _ = agent.update(replay.sample(4))
        assert "losses/contrastive" not in metrics  # CURL's needs images
    for module in (agent.lower, agent.target_lower):
        assert all(torch.equal(v, frozen[k]) for k, v in module.state_dict().items())
        assert all(p.grad is None and not p.requires_grad for p in module.parameters())
    moved = {**agent.actor.state_dict(), **agent.critic.state_dict()}
    assert not any(torch.equal(v, moved[k]) for k, v in heads.items())


def test_a_new_observation_is_encoded_once_for_acting_and_all_its_copies() -> None:
    agent, replay = control("curl")
    freeze(agent, replay, copies=4)
    passes: list[int] = []
    agent.lower.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0])))
    obs = np.random.default_rng(1).integers(0, 256, (9, 40, 40), dtype=np.uint8)
    replay.begin(obs[None])
    action = agent.act(replay.observation)
    replay.add(action, [0.0], [False], [False], obs[None])
    agent.act(replay.observation)
    agent.update(replay.sample(4))
    assert passes == [5, 5]
    middle = agent.lower(center_crop(torch.from_numpy(obs)[None], (36, 36)))
    torch.testing.assert_close(replay.observation, middle, atol=1e-5, rtol=1e-5)
    store = replay._store
    newest = torch.tensor([store.lanes[0].open])
    stored = torch.cat([store.table.read("obs", newest, copy) for copy in range(4)])
    crops = [torch.from_numpy(obs)[None, :, y : y + 36, x : x + 36] for y in range(5) for x in range(5)]
    possible = agent.lower(torch.cat(crops))
    assert stored.shape == (4, 100)
    assert all((possible - copy).abs().amax(dim=1).min() < 1e-4 for copy in stored)


def test_a_thousand_frames_of_control_become_18750_steps_and_truly_so_many() -> None:
    """The paper's C' = floor(C P / (4 N K L)), 30,000,000 / (4 * 2 * 4 * 50), counts observations only (section 4.2)."""
    agent = CURL(CURLConfig(), (9, 100, 100), 6)
    replay = Replay((9, 100, 100), (6,), np.float32, memory=30_000_000, stack=3)
    obs = np.zeros((9, 100, 100), np.uint8)
    replay.begin(obs[None])
    for _ in range(40):
        replay.add([np.zeros(6, np.float32)], [0.0], [False], [False], obs[None])
    assert (replay.bytes_per_step, replay.capacity) == (30_032, 998)
    freeze(agent, replay, copies=4)
    assert (replay.bytes_per_step, replay.capacity) == (4 * 100 * 4 + 4 + 24 + 4, 18_382)


MEMORY = """
import re, sys
import numpy as np, torch
from seer_rl.agents.rainbow import Rainbow, RainbowConfig
from seer_rl.agents.networks import Pixels
from seer_rl.replay.codec import DTYPES
from seer_rl.replay.replay import Replay
from seer_rl.seer import freeze
from seer_rl.training.config import TrainConfig
from seer_rl.training.process import prepare

def status(key):
    return int(re.search(key + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1000

prepare(TrainConfig("atari/alien"))
agent = Rainbow(RainbowConfig(), (4, 84, 84), 18)
replay = Replay((4, 84, 84), (), np.uint8, capacity=50_000, stack=4, n_step=20, priority_exponent=float(sys.argv[1]))
rng = np.random.default_rng(0)
frames = rng.integers(0, 256, (64, 4, 84, 84), dtype=np.uint8)
replay.begin(frames[:1])
for i in range(int(sys.argv[2])):
    replay.add([i % 18], [0.0], [i % 700 == 699], [False], frames[i % 64][None])
    if i % 700 == 699:
        replay.begin(frames[:1])
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
