"""A robot arm that two cameras watch: an environment of one's own, in one file, for SAC with SEER.

    pip install '.[dmc]'
    seer train examples.robot:Arm --steps 20000 --env.size 0 --env.action-repeat 2 --seer.freeze-step 8000

Its observations are dictionaries: a picture from the side, a smaller one from the hand, and joint angles with their velocities.
Each camera has an encoder of its own. At the freeze both pictures become embeddings; angles and velocities stay as they are.
"""

import os
from typing import Any

import gymnasium as gym
import numpy as np

from seer_rl.envs.dmc import renderer

os.environ.setdefault("MUJOCO_GL", renderer())  # MuJoCo reads it when it is imported

import mujoco

MODEL = """
<mujoco>
  <option timestep="0.01"/>
  <visual><quality offsamples="0" shadowsize="0"/></visual>
  <worldbody>
    <light pos="0 0 2"/>
    <geom type="plane" size="1 1 .1" rgba=".3 .3 .3 1"/>
    <camera name="side" pos="0 -1.1 .9" xyaxes="1 0 0 0 .6 .8"/>
    <body name="upper" pos="0 0 .1">
      <joint name="shoulder" axis="0 0 1" range="-2.5 2.5" limited="true" damping=".3"/>
      <geom type="capsule" fromto="0 0 0 .25 0 0" size=".03" rgba=".2 .4 .9 1"/>
      <body name="fore" pos=".25 0 0">
        <joint name="elbow" axis="0 0 1" range="-2.2 2.2" limited="true" damping=".3"/>
        <geom type="capsule" fromto="0 0 0 .22 0 0" size=".025" rgba=".3 .7 .9 1"/>
        <site name="hand" pos=".24 0 0" size=".02"/>
        <camera name="hand" pos=".2 0 .3" xyaxes="0 -1 0 1 0 0" fovy="80"/>
      </body>
    </body>
    <body name="target" mocap="true"><geom type="sphere" size=".04" rgba=".9 .2 .2 1" contype="0" conaffinity="0"/></body>
  </worldbody>
  <actuator><motor joint="shoulder" gear="1"/><motor joint="elbow" gear=".6"/></actuator>
</mujoco>
"""
STEPS = 100  # of an episode
CAMERAS = {"side": 64, "hand": 40}  # pixels


class Arm(gym.Env[dict[str, np.ndarray], np.ndarray]):
    """Reach for a red ball: the reward of a step is near 1 where the hand is at the ball, and near 0 far from it."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 (gymnasium's own attribute)

    def __init__(self, render_mode: str | None = None) -> None:
        """Build the simulation and a renderer for each camera."""
        self.render_mode = render_mode
        self.model = mujoco.MjModel.from_xml_string(MODEL)
        self.data = mujoco.MjData(self.model)
        self.renderers = {name: mujoco.Renderer(self.model, size, size) for name, size in CAMERAS.items()}
        images = {name: gym.spaces.Box(0, 255, (size, size, 3), np.uint8) for name, size in CAMERAS.items()}
        joints = gym.spaces.Box(-np.inf, np.inf, (4,), np.float64)
        self.observation_space: gym.Space[Any] = gym.spaces.Dict({**images, "joints": joints})
        self.action_space = gym.spaces.Box(-2.0, 2.0, (2,), np.float32)  # torques
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start with the arm and the ball anywhere within reach."""
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = self.np_random.uniform(-1.5, 1.5, 2)
        angle, distance = self.np_random.uniform(-1.2, 1.2), self.np_random.uniform(0.25, 0.45)
        self.data.mocap_pos[0] = distance * np.cos(angle), distance * np.sin(angle), 0.1
        mujoco.mj_forward(self.model, self.data)
        self.steps = 0
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Apply torques for a twentieth of a second."""
        self.data.ctrl[:] = action
        mujoco.mj_step(self.model, self.data, nstep=5)
        self.steps += 1
        distance = float(np.linalg.norm(self.data.site("hand").xpos - self.data.mocap_pos[0]))
        return self._observation(), float(np.exp(-8 * distance)), False, self.steps == STEPS, {}

    def _observation(self) -> dict[str, np.ndarray]:
        return {**{name: self._picture(name) for name in CAMERAS}, "joints": np.concatenate([self.data.qpos, self.data.qvel])}

    def _picture(self, camera: str) -> np.ndarray:
        renderer = self.renderers[camera]
        renderer.update_scene(self.data, camera)
        picture: np.ndarray = renderer.render()
        return picture

    def render(self) -> Any:
        """Return the picture from the side."""
        return self._picture("side").repeat(4, 0).repeat(4, 1) if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Free the renderers."""
        for one in self.renderers.values():
            one.close()
