"""Agents with several cameras and a vector: what heads get is worked out by hand, on images and after a freeze."""

from typing import Any

import numpy as np
import pytest
import torch

from seer_rl.agents.augment import center_crop
from seer_rl.agents.curl import CURL, CURLConfig
from seer_rl.agents.dqn import DQN, DQNConfig
from seer_rl.agents.drqv2 import DrQv2, DrQv2Config
from seer_rl.agents.flops import measure
from seer_rl.agents.rainbow import Rainbow, RainbowConfig
from seer_rl.agents.sac import RAD, SAC, RADConfig, SACConfig
from seer_rl.convergence import ConvergenceMonitor
from seer_rl.replay.observation import keyed
from seer_rl.replay.replay import Replay
from seer_rl.seer import freeze
from seer_rl.training import transfer
from seer_rl.training.weights import tensors

SHAPES = {"joints": (4,), "front": (3, 84, 84), "wrist": (6, 64, 60)}
ALIKE = {"joints": (4,), "front": (3, 64, 64), "wrist": (3, 64, 64)}
CONTROL: dict[str, Any] = {"hidden": 16, "embedding": 5, "batch_size": 8, "learning_starts": 0}

AGENTS: dict[str, Any] = {
    "dqn": lambda shapes, seam, shared: DQN(DQNConfig(hidden=16, shared_encoder=shared), shapes, 3, seam),
    "rainbow": lambda shapes, seam, shared: Rainbow(RainbowConfig(hidden=16, shared_encoder=shared), shapes, 3, seam),
    "sac": lambda shapes, seam, shared: SAC(SACConfig(**CONTROL, shared_encoder=shared), shapes, 2, seam),
    "rad": lambda shapes, seam, shared: RAD(RADConfig(**CONTROL, crop=50, shared_encoder=shared), shapes, 2, seam),
    "curl": lambda shapes, seam, shared: CURL(CURLConfig(**CONTROL, crop=50, shared_encoder=shared), shapes, 2, seam),
    "drqv2": lambda shapes, seam, shared: DrQv2(DrQv2Config(**CONTROL, shared_encoder=shared), shapes, 2, seam),
}  # fmt: skip


def observation(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    return {
        key: rng.integers(256, size=(1, *shape), dtype=np.uint8)
        if len(shape) == 3
        else rng.normal(size=(1, *shape)).astype("f4")
        for key, shape in shapes.items()
    }


def filled(agent: Any, shapes: dict[str, tuple[int, ...]], steps: int = 40) -> Replay:
    rng = np.random.default_rng(0)
    space: tuple[Any, Any] = ((2,), np.float32) if agent.continuous else ((), np.uint8)
    replay = Replay(shapes, *space, memory=100_000_000, n_step=2)
    replay.begin(observation(rng, shapes))
    for i in range(steps):
        action = np.full((1, 2), 0.1 * (i % 9), np.float32) if agent.continuous else np.array([i % 3])
        replay.add(action, [1.0], [False], [False], observation(rng, shapes))
    return replay


def by_hand(agent: Any, obs: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the heads get, or the actor, of images: one encoder after the other, then the vector."""
    parts = []
    for key in ("front", "wrist"):
        encoder, image = agent.encoder.parts[agent.encoder.which[key]], obs[key]
        if hasattr(agent.config, "crop"):
            image = center_crop(image, (agent.config.crop,) * 2)
        z = encoder(image)
        if isinstance(agent, DrQv2):
            z = encoder.embedding(z)
        parts.append(z.chunk(2, -1)[0] if agent.continuous else z)
    return torch.cat([*parts, obs["joints"]], dim=1)


def policy_by_hand(agent: Any, z: torch.Tensor) -> torch.Tensor:
    if isinstance(agent, DrQv2):
        return torch.tanh(agent.actor(z))
    if isinstance(agent, SAC):
        return torch.tanh(agent.actor(z).chunk(2, -1)[0])
    return agent.values(agent.head(z)) if isinstance(agent, Rainbow) else agent.head(z)


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize("seam", [None, 1], ids=["whole", "first layer"])
@pytest.mark.parametrize("kind", AGENTS)
def test_heads_get_every_image_and_the_vector_before_and_after_a_freeze(kind: str, seam: int | None, shared: bool) -> None:
    torch.manual_seed(0)
    shapes = ALIKE if shared else SHAPES
    agent = AGENTS[kind](shapes, seam, shared).eval()
    replay = filled(agent, shapes)
    batch = replay.sample(6)
    with torch.no_grad():
        expected = policy_by_hand(agent, by_hand(agent, batch.obs))
        torch.testing.assert_close(agent.policy(batch.obs), expected, rtol=1e-4, atol=1e-5)
    agent.train()
    assert agent.act(replay.observation).shape == ((1, 2) if agent.continuous else (1,))
    metrics, errors = agent.update(replay.sample(8))
    assert errors.shape == (8,)
    assert all(torch.isfinite(value) for value in metrics.values())
    before = {name: p.clone() for name, p in agent.named_parameters()}
    agent.eval()
    policy = agent.policy(replay.observation)
    freeze(agent, replay, capacity=60, copies=2)
    assert {key: x.dtype for key, x in keyed(replay.observation).items()} == dict.fromkeys(shapes, torch.float32)
    torch.testing.assert_close(agent.policy(replay.observation), policy, rtol=1e-4, atol=1e-5)  # acting is as it was
    assert replay.copies == (2 if kind in ("rad", "curl", "drqv2") else 1)
    agent.train()
    for _ in range(2):
        agent.update(replay.sample(8))
    frozen = {id(p) for p in agent.lower.parameters()}
    assert frozen
    for name, parameter in agent.named_parameters():
        if id(parameter) in frozen:
            assert torch.equal(parameter, before[name]), name
    assert any(not torch.equal(p, before[name]) for name, p in agent.named_parameters() if "target" not in name)
    assert len(agent.encoder.parts) == (1 if shared else 2)


def test_what_shall_share_an_encoder_must_be_alike() -> None:
    with pytest.raises(ValueError, match=r"--agent\.shared-encoder needs images of one shape"):
        AGENTS["sac"](SHAPES, None, True)


@pytest.mark.parametrize("kind", ["rainbow", "sac", "drqv2"])
def test_operations_and_signals_are_of_all_images(kind: str) -> None:
    """Twice the encoder of one image, for two alike; and a measurement of the encoder takes them all."""
    torch.manual_seed(0)
    agent = AGENTS[kind](ALIKE, None, False)
    one = type(agent)(agent.config, ALIKE["front"], agent.actions)
    both, single = (measure(a, s, (8, 8)) for a, s in ((agent, ALIKE), (one, ALIKE["front"])))
    assert both.E == 2 * single.E
    assert both.EN == 2 * single.EN
    replay = filled(agent, ALIKE)
    monitor = ConvergenceMonitor(agent)
    first = monitor.measure(agent, replay, 0)
    assert first.cka == pytest.approx(1, abs=1e-5)
    for _ in range(3):
        agent.update(replay.sample(8))
    assert monitor.measure(agent, replay, 1).travel > 0


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize("kind", AGENTS)
def test_encoders_of_several_cameras_are_carried_to_another_seam(kind: str, shared: bool) -> None:
    torch.manual_seed(0)
    shapes = ALIKE if shared else SHAPES
    donor, receiver = AGENTS[kind](shapes, None, shared).eval(), AGENTS[kind](shapes, 1, shared).eval()
    obs = {key: torch.from_numpy(x) for key, x in observation(np.random.default_rng(0), shapes).items()}
    with torch.no_grad():
        theirs = by_hand(donor, obs)
        assert not torch.allclose(by_hand(receiver, obs), theirs)
        transfer.receive_encoder(receiver, tensors(donor.encoder))
        assert torch.equal(by_hand(receiver, obs), theirs)
    other = AGENTS[kind](ALIKE, None, not shared)
    with pytest.raises(ValueError, match=r"that is another encoder|that encoder is for other images"):
        transfer.receive_encoder(other, tensors(donor.encoder))
