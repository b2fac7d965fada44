"""Operations against the paper's table, a brute-force loop and PyTorch's own counter on real passes."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from seer_rl.dqn import DQN, DQNConfig
from seer_rl.flops import Costs, layers
from seer_rl.networks import output_shape
from seer_rl.rainbow import Rainbow, RainbowConfig
from seer_rl.replay import Replay
from seer_rl.seer import freeze

SHAPE = (4, 84, 84)
Agent = Rainbow | DQN


def costs(agent: Agent) -> Costs:
    above = layers(agent.upper, output_shape(agent.lower, SHAPE, torch.uint8))
    below = layers(agent.lower, SHAPE, torch.uint8)
    return Costs(below, above, agent.config.batch_size, agent.forwards, agent.backwards)


def test_the_papers_atari_table() -> None:
    for actions in (3, 9, 18):
        c = costs(Rainbow(RainbowConfig(), SHAPE, actions))
        table = {layer.name: layer.multiply_adds for layer in [*c.lower, *c.upper]}
        assert table == {
            "conv1": 819_200, "conv2": 460_800,
            "head.value.fc1": 147_456, "head.value.fc2": 13_056,
            "head.advantage.fc1": 147_456, "head.advantage.fc2": 13_056 * actions,
        }  # fmt: skip
        assert c.E == 1_280_000


def test_the_papers_formulas_and_where_45_trillion_lie() -> None:
    c = costs(Rainbow(RainbowConfig(), SHAPE, 18))
    assert c.update(frozen=False)[0] == 32 * 3 * (c.E + c.M) + 2 * 32 * 1 * (c.E + c.M)
    assert c.update(frozen=True)[0] + c.act(frozen=True)[0] == 32 * 3 * c.M + 2 * 32 * 1 * c.M + c.E
    assert c.freeze(50_000)[0] == c.E * 50_000
    steps = 45e12 / c.update(frozen=False)[0]
    assert steps == pytest.approx(154_280, abs=1)
    # With SEER from step 50,000 the same operations last for about 2.5 times as many steps.
    left = 45e12 - 50_000 * c.update(frozen=False)[0] - c.freeze(50_000)[0]
    assert 50_000 + left / (c.update(frozen=True)[0] + c.act(frozen=True)[0]) == pytest.approx(394_300, abs=500)


def test_a_convolution_is_counted_as_a_loop_would() -> None:
    lower = torch.nn.Sequential(torch.nn.Conv2d(2, 3, kernel_size=(2, 3), stride=2, padding=1))
    (layer,) = layers(lower, (2, 7, 6))
    height, width = lower(torch.zeros(1, 2, 7, 6)).shape[2:]
    assert layer.multiply_adds == sum(1 for _ in np.ndindex(height, width, 3, 2, 2, 3))


@pytest.mark.parametrize("layers_below", [None, 1])
@pytest.mark.parametrize("kind", ["rainbow", "dqn"])
def test_true_operations_are_pytorchs_own_count(kind: str, layers_below: int | None) -> None:
    """Of a real act, a real update and a real freeze, on both sides. The counter sees matrix products and convolutions."""
    agent: Agent
    if kind == "rainbow":
        agent = Rainbow(RainbowConfig(), SHAPE, 6, layers_below)
    else:
        agent = DQN(DQNConfig(encoder="data-efficient", batch_size=16, epsilon_final=0), SHAPE, 6, layers_below)
        agent.acts = agent.config.epsilon_steps  # greedy from now on
    c = costs(agent)
    replay = Replay(SHAPE, (), np.uint8, capacity=600, stack=4, n_step=agent.config.n_step)
    obs = np.zeros(SHAPE, np.uint8)
    replay.start(obs)
    for _ in range(40):
        replay.add(0, 0.0, False, False, obs)

    def counted(frozen: bool) -> None:
        with FlopCounterMode(display=False) as counter:
            replay.add(0, 0.0, False, False, obs)
            agent.act(replay.observation)
        assert counter.get_total_flops() == c.act(frozen)[1]
        # PyTorch also counts the projection of C51's target, a matrix product of no layer.
        beside = 2 * 32 * 51 * 51 if kind == "rainbow" else 0
        with FlopCounterMode(display=False) as counter:
            agent.update(replay.sample(agent.config.batch_size))
        assert counter.get_total_flops() - beside == c.update(frozen)[1]

    agent.eval()  # without noise, whose products are elementwise too
    counted(frozen=False)
    with FlopCounterMode(display=False) as counter:
        if layers_below is None:
            freeze(agent, replay)
        else:
            with pytest.warns(UserWarning, match="more memory than a frame"):
                freeze(agent, replay)
    # `rewrite` looks at the newest observation once more, to learn the result's shape.
    assert counter.get_total_flops() == c.freeze(replay.size + 1)[1]
    counted(frozen=True)
