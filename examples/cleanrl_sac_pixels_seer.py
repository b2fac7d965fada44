# mypy: disable-error-code="assignment, no-untyped-call"
"""SAC from pixels in a single file in the style of CleanRL's sac_continuous_action.py, with SEER: docs/cleanrl.md tells more.

    python examples/cleanrl_sac_pixels_seer.py --env-id dmc/cartpole-swingup --freeze-step 10000

Actor and critics share an encoder, which the critics alone train; the target critics have a copy of their own. The replay is
`seer_rl.Replay`, which stores each frame once. Without the lines between "SEER: begin" and "SEER: end" this is SAC.
"""

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
from seer_rl.envs.dmc import ControlConfig


@dataclass
class Args:
    exp_name: str = os.path.basename(__file__)[: -len(".py")]
    """Name of the experiment, a part of the directory under runs/."""
    seed: int = 1
    """Seed for all randomness."""
    cuda: bool = True
    """Train on a GPU where there is one. The replay stays in the computer's own memory."""
    save_model: bool = False
    """Write the weights of encoder and actor into the run's directory at the end."""

    # Algorithm specific arguments
    env_id: str = "dmc/cartpole-swingup"
    """Task of DeepMind Control, as `seer_rl.make` names it."""
    image_size: int = 84
    """Height and width of frames, in pixels."""
    total_timesteps: int = 80_000
    """Steps of each environment, each of as many control steps as an action is repeated."""
    num_envs: int = 1
    """Environments that are stepped together; an update follows each step of all."""
    buffer_size: int = 100_000
    """Steps of images that the replay has memory for. After the freeze it holds as many embeddings as fit there."""
    gamma: float = 0.99
    """Discount of a step."""
    tau: float = 0.01
    """Share of the critics and their encoder that moves into their targets."""
    batch_size: int = 128
    """Transitions in an update."""
    learning_starts: int = 1_000
    """Step after which updates begin; until then actions are random."""
    policy_lr: float = 1e-3
    """Adam's step size for the actor."""
    q_lr: float = 1e-3
    """Adam's step size for critics, encoder and temperature."""
    policy_frequency: int = 2
    """Updates of the critics per update of the actor."""
    target_network_frequency: int = 1
    """Steps between two moves of the targets."""
    alpha: float = 0.1
    """Weight of the policy's entropy, the temperature, at first."""
    autotune: bool = True
    """Adapt the temperature until the entropy is -(numbers in an action)."""
    freeze_step: int | None = 10_000
    """Step at which SEER freezes the encoder; the paper's for cartpole. None: never."""


def make_env(env_id: str, image_size: int) -> Callable[[], gym.Env[Any, Any]]:
    def thunk() -> gym.Env[Any, Any]:
        # Three frames of RGB, by frame and colour: nine channels, drawn without shadows. Actions lie in [-1, 1].
        return make(env_id, training=True, settings=ControlConfig(size=image_size, fast_render=True))

    return thunk


# ALGO LOGIC: the networks
class Encoder(nn.Module):
    def __init__(self, envs: Any) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(9, 32, 8, stride=4),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, stride=1),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.features = self.network(torch.zeros(1, *envs.single_observation_space.shape)).shape[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z: torch.Tensor = self.network(x / 255.0)
        return z


class SoftQNetwork(nn.Module):
    def __init__(self, envs: Any, features: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(features, 50), nn.LayerNorm(50), nn.Tanh())
        self.network = nn.Sequential(
            nn.Linear(50 + envs.single_action_space.shape[0], 256),
            nn.ReLU(),
            nn.Linear(256, 256),
            nn.ReLU(),
            nn.Linear(256, 1),
        )

    def forward(self, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = self.network(torch.cat([self.trunk(z), a], dim=1)).squeeze(1)
        return value


LOG_STD_MAX = 2
LOG_STD_MIN = -10


class Actor(nn.Module):
    def __init__(self, envs: Any, features: int) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(features, 50),
            nn.LayerNorm(50),
            nn.Tanh(),
            nn.Linear(50, 256),
            nn.ReLU(),
            nn.Linear(256, 256),
            nn.ReLU(),
            nn.Linear(256, 2 * envs.single_action_space.shape[0]),
        )

    def forward(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_std = self.network(z).chunk(2, dim=1)
        return mean, LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (torch.tanh(log_std) + 1)

    def get_action(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        mean, log_std = self(z)
        noise = torch.randn_like(mean)
        u = mean + log_std.exp() * noise
        log_normal = -0.5 * noise.square() - log_std - 0.5 * np.log(2 * np.pi)
        # log(1 - tanh(u)^2), in a form that cannot overflow
        log_slope = 2 * (np.log(2) - u - F.softplus(-2 * u))
        return torch.tanh(u), (log_normal - log_slope).sum(dim=1), torch.tanh(mean)


if __name__ == "__main__":
    args = tyro.cli(Args)
    if args.freeze_step is not None and not args.learning_starts + 1 < args.freeze_step < args.total_timesteps:
        raise SystemExit(
            f"--freeze-step {args.freeze_step} must lie behind the first update (step {args.learning_starts + 1}) and before "
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
        [make_env(args.env_id, args.image_size) for _ in range(args.num_envs)],
        autoreset_mode=gym.vector.AutoresetMode.SAME_STEP,
    )
    assert isinstance(envs.single_action_space, gym.spaces.Box), "only continuous actions are supported"
    envs.action_space.seed(args.seed)

    encoder, target_encoder = Encoder(envs).to(device), Encoder(envs).to(device)
    actor = Actor(envs, encoder.features).to(device)
    qf1, qf2, qf1_target, qf2_target = (SoftQNetwork(envs, encoder.features).to(device) for _ in range(4))
    target_encoder.load_state_dict(encoder.state_dict())
    qf1_target.load_state_dict(qf1.state_dict())
    qf2_target.load_state_dict(qf2.state_dict())
    policy = nn.ModuleDict({"encoder": encoder, "actor": actor})  # what acts on images, now and at the end
    q_optimizer = optim.Adam([*encoder.parameters(), *qf1.parameters(), *qf2.parameters()], lr=args.q_lr)
    actor_optimizer = optim.Adam(actor.parameters(), lr=args.policy_lr)

    # automatic entropy tuning
    target_entropy = -float(envs.single_action_space.shape[0])
    log_alpha = torch.full((), np.log(args.alpha), requires_grad=True, device=device)
    a_optimizer = optim.Adam([log_alpha], lr=args.q_lr)

    rb = Replay(
        envs.single_observation_space.shape,
        envs.single_action_space.shape,
        envs.single_action_space.dtype,
        capacity=args.buffer_size,
        lanes=args.num_envs,
        stack=3,
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
            freeze(Seam(encoder, target_encoder), rb, dtype="uint8")
            # From here on the replay gives embeddings: nothing is left to do for an encoder.
            encoder, target_encoder = nn.Identity(), nn.Identity()
            print(f"{global_step=}, frozen: {rb.bytes_per_step:,} bytes a step, room for {rb.capacity:,} steps")
        # SEER: end

        # ALGO LOGIC: the action
        if global_step < args.learning_starts:
            actions = envs.action_space.sample()
        else:
            with torch.no_grad():
                actions = actor.get_action(encoder(torch.as_tensor(rb.observation, device=device)))[0].cpu().numpy()

        next_obs, rewards, terminations, truncations, infos = envs.step(actions)

        # the returns of episodes that ended
        games = infos.get("final_info", {})
        for i in np.flatnonzero(games.get("_episode", [])):
            print(f"{global_step=}, episodic_return={games['episode']['r'][i]}")
            writer.add_scalar("charts/episodic_return", games["episode"]["r"][i], global_step)
            writer.add_scalar("charts/episodic_length", games["episode"]["l"][i], global_step)

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
            data = rb.sample(args.batch_size).to(device)
            alpha = log_alpha.exp().item()
            with torch.no_grad():
                next_actions, next_log_pi, _ = actor.get_action(encoder(data.next_obs))
                target_z = target_encoder(data.next_obs)
                next_q = torch.min(qf1_target(target_z, next_actions), qf2_target(target_z, next_actions))
                # the discount is 0 where the episode terminated
                next_q_value = data.reward + data.discount * (next_q - alpha * next_log_pi)
            z = encoder(data.obs)
            qf1_values, qf2_values = qf1(z, data.action), qf2(z, data.action)
            qf1_loss, qf2_loss = F.mse_loss(qf1_values, next_q_value), F.mse_loss(qf2_values, next_q_value)
            qf_loss = qf1_loss + qf2_loss

            q_optimizer.zero_grad()
            qf_loss.backward()
            q_optimizer.step()

            if global_step % args.policy_frequency == 0:
                z = z.detach()  # the encoder learns from the critics alone
                pi, log_pi, _ = actor.get_action(z)
                actor_loss = (alpha * log_pi - torch.min(qf1(z, pi), qf2(z, pi))).mean()

                actor_optimizer.zero_grad()
                actor_loss.backward()
                actor_optimizer.step()

                if args.autotune:
                    alpha_loss = -log_alpha.exp() * (log_pi.detach().mean() + target_entropy)
                    a_optimizer.zero_grad()
                    alpha_loss.backward()
                    a_optimizer.step()

                if global_step % 100 == 0:
                    writer.add_scalar("losses/qf1_values", qf1_values.mean().item(), global_step)
                    writer.add_scalar("losses/qf2_values", qf2_values.mean().item(), global_step)
                    writer.add_scalar("losses/qf1_loss", qf1_loss.item(), global_step)
                    writer.add_scalar("losses/qf2_loss", qf2_loss.item(), global_step)
                    writer.add_scalar("losses/actor_loss", actor_loss.item(), global_step)
                    writer.add_scalar("losses/alpha", alpha, global_step)
                    writer.add_scalar("charts/SPS", int(global_step / (time.time() - start_time)), global_step)

            # update the target networks
            if global_step % args.target_network_frequency == 0:
                for target, online in ((target_encoder, encoder), (qf1_target, qf1), (qf2_target, qf2)):
                    for target_param, param in zip(target.parameters(), online.parameters(), strict=True):
                        target_param.data.lerp_(param.data, args.tau)

    if args.save_model:
        torch.save(policy.state_dict(), f"runs/{run_name}/{args.exp_name}.pt")
    envs.close()
    writer.close()
