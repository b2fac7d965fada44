# mypy: disable-error-code="assignment, method-assign, no-untyped-call"
"""DQN on Atari in a single file in the style of CleanRL's dqn_atari.py, with SEER: docs/cleanrl.md tells more.

    python examples/cleanrl_dqn_atari_seer.py --env-id atari/pong --freeze-step 1000000

Two things are not in that file: the replay is `seer_rl.Replay`, which stores each frame once; and there are the lines
between "SEER: begin" and "SEER: end", without which this is DQN.
"""

import copy
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
import tyro
from torch.utils.tensorboard import SummaryWriter

from seer_rl import Replay, Seam, freeze, make


@dataclass
class Args:
    exp_name: str = os.path.basename(__file__)[: -len(".py")]
    """Name of the experiment, a part of the directory under runs/."""
    seed: int = 1
    """Seed for all randomness."""
    cuda: bool = True
    """Train on a GPU where there is one. The replay stays in the computer's own memory."""
    save_model: bool = False
    """Write the network's weights into the run's directory at the end."""

    # Algorithm specific arguments
    env_id: str = "atari/pong"
    """Game, as `seer_rl.make` names it."""
    total_timesteps: int = 10_000_000
    """Steps of each environment, of four frames."""
    learning_rate: float = 1e-4
    """Adam's step size."""
    num_envs: int = 1
    """Environments that are stepped together; updates come once for a step of all."""
    buffer_size: int = 1_000_000
    """Steps of images that the replay has memory for. After the freeze it holds as many embeddings as fit there."""
    gamma: float = 0.99
    """Discount of a step."""
    tau: float = 1.0
    """Share of the network that moves into the target network."""
    target_network_frequency: int = 1_000
    """Steps between two moves of the target network."""
    batch_size: int = 32
    """Transitions in an update."""
    start_e: float = 1.0
    """Share of random actions at first."""
    end_e: float = 0.01
    """Share of random actions in the end."""
    exploration_fraction: float = 0.10
    """Share of the run in which the former falls to the latter."""
    learning_starts: int = 80_000
    """Step after which updates begin."""
    train_frequency: int = 4
    """Steps between two updates."""
    freeze_step: int | None = 1_000_000
    """Step at which SEER freezes the convolutions: when exploration has ended. None: never."""


def make_env(env_id: str) -> Callable[[], gym.Env[Any, Any]]:
    def thunk() -> gym.Env[Any, Any]:
        # Four grey frames of 84x84; rewards are clipped, and a lost life ends the episode.
        return make(env_id, training=True)

    return thunk


# ALGO LOGIC: the network
class QNetwork(nn.Module):
    def __init__(self, envs: Any) -> None:
        super().__init__()
        assert isinstance(envs.single_action_space, gym.spaces.Discrete), "only discrete actions are supported"
        self.network = nn.Sequential(
            nn.Conv2d(4, 32, 8, stride=4),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, stride=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(3136, 512),
            nn.ReLU(),
            nn.Linear(512, envs.single_action_space.n),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = self.network(x / 255.0)
        return values


if __name__ == "__main__":
    args = tyro.cli(Args)
    first_update = args.learning_starts + args.train_frequency  # at the latest
    if args.freeze_step is not None and not first_update < args.freeze_step < args.total_timesteps:
        raise SystemExit(
            f"--freeze-step {args.freeze_step} must lie behind the first update (by step {first_update}) and before "
            f"--total-timesteps {args.total_timesteps}; None never freezes"
        )
    run_name = f"{args.env_id}__{args.exp_name}__{args.seed}__{int(time.time())}"
    writer = SummaryWriter(f"runs/{run_name}")
    writer.add_text("hyperparameters", "\n".join(["|param|value|", "|-|-|", *(f"|{k}|{v}|" for k, v in vars(args).items())]))

    # seeding
    random.seed(args.seed)
    torch.manual_seed(args.seed)
    torch.backends.cudnn.deterministic = True
    device = torch.device("cuda" if torch.cuda.is_available() and args.cuda else "cpu")

    # env setup
    envs: Any = gym.vector.SyncVectorEnv(
        [make_env(args.env_id) for _ in range(args.num_envs)], autoreset_mode=gym.vector.AutoresetMode.SAME_STEP
    )
    envs.action_space.seed(args.seed)

    q_network = QNetwork(envs).to(device)
    optimizer = optim.Adam(q_network.parameters(), lr=args.learning_rate)
    target_network = QNetwork(envs).to(device)
    target_network.load_state_dict(q_network.state_dict())

    rb = Replay(
        envs.single_observation_space.shape,
        envs.single_action_space.shape,
        envs.single_action_space.dtype,
        capacity=args.buffer_size,
        lanes=args.num_envs,
        stack=4,
        discount=args.gamma,
        seed=args.seed,
    )
    start_time = time.time()

    # start the game
    obs, _ = envs.reset(seed=args.seed)
    rb.begin(obs)
    for global_step in range(args.total_timesteps):
        # SEER: begin
        if global_step == args.freeze_step:
            # What is frozen: two QNetworks that end at Flatten, and share their layers with ours.
            lower, target_lower = copy.deepcopy((q_network, target_network))
            lower.network, target_lower.network = q_network.network[:7], target_network.network[:7]
            freeze(Seam(lower, target_lower), rb, dtype="uint8")
            # From here on the replay gives embeddings, so both networks begin behind Flatten.
            for network in (q_network, target_network):
                network.forward = network.network[7:].forward
            print(f"{global_step=}, frozen: {rb.bytes_per_step:,} bytes a step, room for {rb.capacity:,} steps")
        # SEER: end

        # ALGO LOGIC: the action
        explored = min(1.0, global_step / (args.exploration_fraction * args.total_timesteps))
        epsilon = args.start_e + explored * (args.end_e - args.start_e)
        if random.random() < epsilon:
            actions = envs.action_space.sample()
        else:
            with torch.no_grad():
                actions = q_network(torch.as_tensor(rb.observation, device=device)).argmax(dim=1).cpu().numpy()

        next_obs, rewards, terminations, truncations, infos = envs.step(actions)

        # the scores of games that ended
        games = infos.get("final_info", {})
        for i in np.flatnonzero(games.get("_episode", [])):
            print(f"{global_step=}, episodic_return={games['episode']['r'][i]}")
            writer.add_scalar("charts/episodic_return", games["episode"]["r"][i], global_step)
            writer.add_scalar("charts/episodic_length", games["episode"]["l"][i], global_step)
            writer.add_scalar("charts/epsilon", epsilon, global_step)

        # save data to the replay: where an episode ended, next_obs belongs to the next one
        ended = np.flatnonzero(terminations | truncations)
        real_next_obs = next_obs.copy()
        for i in ended:
            real_next_obs[i] = infos["final_obs"][i]
        rb.add(actions, rewards, terminations, truncations, real_next_obs)
        if len(ended):
            rb.begin(next_obs[ended], lanes=ended.tolist())

        # ALGO LOGIC: training
        if global_step > args.learning_starts:
            if global_step % args.train_frequency == 0:
                data = rb.sample(args.batch_size).to(device)
                with torch.no_grad():
                    target_max = target_network(data.next_obs).amax(dim=1)
                    td_target = data.reward + data.discount * target_max  # the discount is 0 where the episode terminated
                old_val = q_network(data.obs).gather(1, data.action[:, None]).squeeze(1)
                loss = F.mse_loss(td_target, old_val)

                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

                if global_step % 100 == 0:
                    writer.add_scalar("losses/td_loss", loss.item(), global_step)
                    writer.add_scalar("losses/q_values", old_val.mean().item(), global_step)
                    writer.add_scalar("charts/SPS", int(global_step / (time.time() - start_time)), global_step)

            # update the target network
            if global_step % args.target_network_frequency == 0:
                for target_param, param in zip(target_network.parameters(), q_network.parameters(), strict=True):
                    target_param.data.lerp_(param.data, args.tau)

    if args.save_model:
        torch.save(q_network.state_dict(), f"runs/{run_name}/{args.exp_name}.pt")
    envs.close()
    writer.close()
