"""Operations against the paper's tables, a brute-force loop and PyTorch's own counter on real passes."""

import copy
import warnings
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from seer_rl.agents.base import Agent
from seer_rl.agents.curl import CURL, CURLConfig
from seer_rl.agents.dqn import DQN, DQNConfig
from seer_rl.agents.drqv2 import DrQv2, DrQv2Config
from seer_rl.agents.flops import Costs, layers, measure
from seer_rl.agents.rainbow import Rainbow, RainbowConfig
from seer_rl.agents.sac import RAD, SAC, RADConfig, SACConfig
from seer_rl.replay.replay import Replay
from seer_rl.seer import freeze

SHAPE = (4, 84, 84)


def costs(agent: Agent, copies: int = 1, views: int = 1, shape: tuple[int, ...] | None = None) -> Costs:
    return measure(agent, shape or agent.obs_shape, (agent.config.batch_size,) * 2, copies, views)


def table(*modules: tuple[nn.Module, tuple[int, ...], torch.dtype]) -> dict[str, int]:
    return {plain(name): size for module in modules for name, size in layers(*module).items()}


def plain(name: str) -> str:
    return name.replace("hidden.", "")  # the layers of mixed precision


def test_the_papers_atari_table() -> None:
    for actions in (3, 9, 18):
        agent = Rainbow(RainbowConfig(), SHAPE, actions)
        c = costs(agent)
        assert table((agent.encoder, SHAPE, torch.uint8), (agent.head, (576,), torch.float32)) == {
            "conv1": 819_200, "conv2": 460_800,
            "value.fc1": 147_456, "value.fc2": 13_056,
            "advantage.fc1": 147_456, "advantage.fc2": 13_056 * actions,
        }  # fmt: skip
        assert c.E == c.EKN == 1_280_000


def test_the_papers_deepmind_control_table() -> None:
    agent = CURL(CURLConfig(), (9, 100, 100), 1)
    c = costs(agent, 4, 5, (9, 100, 100))
    counted = table((agent.encoder, agent.obs_shape, torch.uint8), (agent.critic.q1, (51,), torch.float32))
    counted |= {"actor." + plain(name): size for name, size in layers(agent.actor, (50,)).items()}
    biases = {"fc2": 1024, "fc3": 1024, "fc4": 1, "actor.fc2": 1024, "actor.fc3": 1024, "actor.fc4": 2}
    published = {
        "conv1": "4.36e+06", "conv2": "1.40e+07", "conv3": "1.26e+07", "conv4": "1.13e+07",
        "embedding.critic.fc1": "1.96e+06", "embedding.actor.fc1": "1.96e+06",
        "fc2": "5.3e+04", "fc3": "1.0e+06", "fc4": "1.0e+03",
        "actor.fc2": "5.2e+04", "actor.fc3": "1.0e+06", "actor.fc4": "2.0e+03",
    }  # fmt: skip
    for name, text in published.items():  # of the layers above the embeddings its tool counted the biases too
        digits = len(text.split("e")[0]) - 2
        assert f"{counted[name] + biases.get(name, 0):.{digits}e}" == text, name
    convolutions, fc1 = 4_357_152 + 14_017_536 + 12_616_704 + 11_289_600, 1_960_000
    assert convolutions + 2 * fc1 == c.E
    assert 4 * 2 * (convolutions + fc1) == c.EKN
    assert c.act(frozen=True)[0] == c.EKN
    # Before: SAC's three encodings, one more for the actor in every second update, and one backward pass; CURL's two and one.
    # After: heads and the new embeddings.
    before, after = c.update(frozen=False)[0], c.update(frozen=True)[0]
    q, pi = 51 * 1024 + 1024**2 + 1024, 50 * 1024 + 1024**2 + 2 * 1024
    heads = 2 * q * (2.5 + 2.5) + pi * (1.5 + 1)
    assert after == 128 * heads
    assert before == 128 * (convolutions * (5.5 + 2 * 2) + fc1 * (5.5 + 2 * 2) + fc1 * (5.5 + 2 * 0.5) + heads)
    assert before / (after + c.act(frozen=True)[0]) == pytest.approx(27.0, abs=0.05)


def test_the_papers_formulas_and_where_45_trillion_lie() -> None:
    c = costs(Rainbow(RainbowConfig(), SHAPE, 18))
    M = 2 * (576 * 256 + 256 * 51) + 17 * 256 * 51
    assert c.update(frozen=False)[0] == 32 * 3 * (c.E + M) + 2 * 32 * 1 * (c.E + M)
    assert c.update(frozen=True)[0] + c.act(frozen=True)[0] == 32 * 3 * M + 2 * 32 * 1 * M + c.E
    assert c.freeze(50_000)[0] == c.E * 50_000
    steps = 45e12 / c.update(frozen=False)[0]
    assert steps == pytest.approx(154_280, abs=1)
    # With SEER from step 50,000 the same operations last for about 2.5 times as many steps.
    left = 45e12 - 50_000 * c.update(frozen=False)[0] - c.freeze(50_000)[0]
    assert 50_000 + left / (c.update(frozen=True)[0] + c.act(frozen=True)[0]) == pytest.approx(394_300, abs=500)


@pytest.mark.parametrize("frozen", [1, 2, 3, 4])
def test_frozen_layers_by_the_papers_formula(frozen: int) -> None:
    """Figure 9: with layers up to one frozen, b F M + 2 b B M + E K N a step, E those layers and M what is above them."""
    c = costs(CURL(CURLConfig(), (9, 100, 100), 1, frozen), 4, 5, (9, 100, 100))
    convolutions, fc1 = [4_357_152, 14_017_536, 12_616_704, 11_289_600], 1_960_000  # of table 2
    E, rest = sum(convolutions[:frozen]), sum(convolutions[frozen:])
    q, pi = 51 * 1024 + 1024**2 + 1024, 50 * 1024 + 1024**2 + 2 * 1024
    heads = 2 * q * (2.5 + 2.5) + pi * (1.5 + 1)
    # Convolutions and the critic's fc1: three forward passes, a fourth in every second update for the actor, and one backward;
    # the actor's fc1: backward in every second update.
    M = rest * (3.5 + 2) + fc1 * (3.5 + 2) + fc1 * (3.5 + 2 * 0.5) + heads
    assert c.update(frozen=True)[0] + c.act(frozen=True)[0] == 128 * M + E * 4 * 2
    assert c.freeze(1_000)[0] == E * 4 * 2 * 1_000


def test_a_convolution_is_counted_as_a_loop_would() -> None:
    lower = torch.nn.Sequential(torch.nn.Conv2d(2, 3, kernel_size=(2, 3), stride=2, padding=1))
    (size,) = layers(lower, (2, 7, 6)).values()
    height, width = lower(torch.zeros(1, 2, 7, 6)).shape[2:]
    assert size == sum(1 for _ in np.ndindex(height, width, 3, 2, 2, 3))


DMC: dict[str, Any] = {"batch_size": 3, "learning_starts": 0, "hidden": 64}
KINDS: dict[str, Callable[[int | None], Agent]] = {
    "rainbow": lambda seam: Rainbow(RainbowConfig(), SHAPE, 6, seam),
    "dqn": lambda seam: DQN(DQNConfig(encoder="data-efficient", batch_size=16, epsilon_final=0), SHAPE, 6, seam),
    "sac": lambda seam: SAC(SACConfig(**DMC), (9, 84, 84), 2, seam),
    "rad": lambda seam: RAD(RADConfig(**DMC), (9, 100, 100), 2, seam),
    "curl": lambda seam: CURL(CURLConfig(**DMC), (9, 100, 100), 2, seam),
    "curl, impala": lambda seam: CURL(CURLConfig(encoder="impala", **DMC), (9, 100, 100), 2, seam),
    "drqv2": lambda seam: DrQv2(DrQv2Config(**DMC), (9, 84, 84), 2, seam),
}


@pytest.mark.parametrize("seam", [None, 1, 2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_true_operations_are_pytorchs_own_count(kind: str, seam: int | None) -> None:
    """Of a real act, real updates and a real freeze, on both sides. The counter sees matrix products and convolutions."""
    if (kind in ("rainbow", "dqn") and (seam or 0) > 1) or (kind == "curl, impala" and seam == 4):
        pytest.skip("the encoder has fewer layers")
    agent: Agent = KINDS[kind](seam)
    if isinstance(agent, DQN):
        agent.acts = agent.config.epsilon_steps  # greedy from now on
    b, length = agent.config.batch_size, 50
    augments, continuous = kind in ("rad", "curl", "curl, impala", "drqv2"), not isinstance(agent, Rainbow | DQN)
    shape = (9, 100, 100) if kind in ("rad", "curl", "curl, impala") else agent.obs_shape
    before = copy.deepcopy(agent.state_dict()), agent.generator.get_state(), torch.get_rng_state()
    c = costs(agent, *((4, 5) if augments else (1, 1)), shape)
    after = agent.state_dict(), agent.generator.get_state(), torch.get_rng_state()
    assert before[0].keys() == after[0].keys()  # and nothing of the agent's, or anyone's randomness, was touched
    assert all(
        torch.equal(x, after[0][name]) if isinstance(x, torch.Tensor) else x == after[0][name] for name, x in before[0].items()
    )
    assert torch.equal(before[1], after[1])
    assert torch.equal(before[2], after[2])
    action: tuple[Any, Any] = ((2,), np.float32) if continuous else ((), np.uint8)
    replay = Replay(shape, *action, capacity=600, stack=3 if continuous else 4, n_step=agent.config.n_step)
    obs = np.zeros(shape, np.uint8)
    done: Any = np.zeros(2, np.float32) if continuous else 0
    replay.begin(obs[None])
    for _ in range(40):
        replay.add([done], [0.0], [False], [False], obs[None])

    def counted(frozen: bool) -> None:
        with FlopCounterMode(display=False) as counter:
            replay.add([done], [0.0], [False], [False], obs[None])
            agent.act(replay.observation)
        assert counter.get_total_flops() == c.act(frozen)[1]
        # PyTorch also counts products of no layer: the projection of C51's target; CURL's logits and their gradients.
        beside = 2 * 32 * 51 * 51 if kind == "rainbow" else 0
        if kind.startswith("curl") and not frozen:
            beside = 3 * 2 * (b * length**2 + b * b * length) - 2 * b * b * length
        updates = 2  # of SAC's actor there is one in two
        with FlopCounterMode(display=False) as counter:
            for _ in range(updates):
                agent.update(replay.sample(b))
        assert Fraction(counter.get_total_flops(), updates) - beside == c.update(frozen)[1]

    if not continuous:
        agent.eval()  # without noise, whose products are elementwise too
    counted(frozen=False)
    with FlopCounterMode(display=False) as counter, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="an embedding takes more memory")
        freeze(agent, replay)
    # `rewrite` looks at the newest observation once more, to learn the result's shape.
    assert counter.get_total_flops() == c.freeze(replay.size)[1] + 2 * c.E * c.views
    counted(frozen=True)
