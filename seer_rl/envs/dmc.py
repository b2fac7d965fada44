"""DeepMind Control Suite tasks from pixels, as the paper plays them.

An agent step repeats the action; an observation stacks 3 frames of RGB from one camera, in which an episode's first frame
stands for those before it. Actions lie in [-1, 1]. After 1000 control steps an episode is truncated: its value goes on.
"""

import contextlib
import difflib
import importlib
import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from seer_rl.bounds import Within
from seer_rl.envs.base import EnvConfig, Family, Scale, Settings
from seer_rl.text import install, plain

STACK = 3
SIZE = 100
TIME_LIMIT = 1000  # control steps
ACTION_REPEATS = {"cartpole": 8, "finger": 2, "walker": 2}  # Hafner et al. (2019); the others 4
FILM_SIZE = 240
PROBE = "import mujoco as m; c = m.GLContext(8, 8); c.make_current(); m.MjrContext(m.MjModel.from_xml_string('<mujoco/>'), 100)"

Action = NDArray[np.float32]


@dataclass(frozen=True)
class ControlConfig(EnvConfig):
    """Settings of a DeepMind Control environment."""

    action_repeat: Annotated[int | None, Within(1, 1000)] = None
    """Control steps per agent step. None: the paper's (8 cartpole, 2 finger and walker, 4 elsewhere)."""
    size: Annotated[int | None, Within(1, 512)] = None
    """Height and width of frames. None: 100 for agents that crop, 84 for the others."""
    fast_render: bool = False
    """Without shadows, reflections and multisampling: several times faster on a CPU, but other pictures than the paper's."""
    camera: Annotated[int, Within(0, 100)] = 0
    """Camera of the task's model that sees: 0, as in the paper; for DrQ-v2 on quadruped 2, as its authors chose."""


def make(
    task: str, settings: ControlConfig, training: bool, render_mode: str | None = None
) -> gym.Env[NDArray[np.uint8], Action]:
    """Make the stacked environment of `task` ("walker-walk"): observations [9, size, size] uint8, by frame and colour."""
    env = Control(task, settings.action_repeat, settings.size or SIZE, settings.fast_render, render_mode, settings.camera)
    stacked = gym.wrappers.FrameStackObservation(env, STACK, padding_type="reset")
    return gym.wrappers.ReshapeObservation(stacked, (STACK * 3, env.size, env.size))


class Control(gym.Env[NDArray[np.uint8], Action]):
    """One task. At the end of an episode `info["episode"]` tells its return "r" and its length "l" in agent steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012 (gymnasium's own attribute)

    def __init__(
        self,
        task: str,
        action_repeat: int | None = None,
        size: int = SIZE,
        fast_render: bool = False,
        render_mode: str | None = None,
        camera: int = 0,
    ) -> None:
        """Build the task. action_repeat: control steps per agent step (None: the paper's). size: height and width of frames.

        fast_render: without shadows, reflections and multisampling: several times faster, but other pictures than the paper's.
        camera: number of the model's camera that sees. Raises ValueError, naming the nearest tasks, if there is no such task,
        or no such camera; ImportError without the extra [dmc]; OSError where nothing can render.
        """
        suite = _suite()
        domain, name = _task(task, suite.ALL_TASKS)
        advice = logging.getLogger("absl")  # MuJoCo's, to the suite's authors
        level = advice.level
        advice.setLevel(logging.ERROR)
        # What a task draws when it is built (the masses of lqr, say) is the same in every environment.
        self._env = suite.load(domain, name, task_kwargs={"random": 0}, environment_kwargs={"flat_observation": True})
        advice.setLevel(level)
        self._physics = self._env.physics
        self._mujoco = importlib.import_module("mujoco")
        self._all = self._mujoco.mjtState.mjSTATE_INTEGRATION
        self._built = {name: field.copy() for name, field in _fields(self._physics.model).items()}
        if camera >= (cameras := self._physics.model.ncam):
            self._env.close()
            raise ValueError(f"there is no camera {camera} in {domain}-{name}: its {cameras} are counted from 0")
        self.camera = camera
        self.action_repeat = action_repeat or ACTION_REPEATS.get(domain, 4)
        self.max_episode_steps = -(-TIME_LIMIT // self.action_repeat)
        self.size, self.render_mode = size, render_mode
        self.metadata = {**self.metadata, "render_fps": round(1 / (self._env.control_timestep() * self.action_repeat))}
        visual = self._physics.model.vis.global_  # of what is drawn into, before anything is
        visual.offwidth, visual.offheight = max(visual.offwidth, size), max(visual.offheight, size)
        self._flags: dict[str, bool] = {}
        if fast_render:
            self._physics.model.vis.quality.offsamples = 0
            self._flags = {"shadow": False, "reflection": False}
        spec = self._env.action_spec()
        bounded = np.isfinite(spec.minimum) & np.isfinite(spec.maximum) & (spec.maximum - spec.minimum < 1e6)
        self._low = np.where(bounded, spec.minimum, -1.0)
        self._high = np.where(bounded, spec.maximum, 1.0)
        self.observation_space = gym.spaces.Box(0, 255, (3, size, size), np.uint8)
        self.action_space = gym.spaces.Box(-1.0, 1.0, spec.shape, np.float32)
        self._control_steps, self._return = 0, 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Start an episode. With a seed, everything random from here on follows from it."""
        super().reset(seed=seed)
        if seed is not None:
            self._env.task.random.seed(int(self.np_random.integers(2**31)))
        self._env.reset()
        self._control_steps, self._return = 0, 0.0
        return self._frame(), {}

    def step(self, action: Action) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Repeat `action` [A], clipped to [-1, 1], and sum the rewards (each control step's lies in [0, 1])."""
        control = self._low + (np.clip(action, -1.0, 1.0).astype(np.float64) + 1) / 2 * (self._high - self._low)
        reward, terminated, truncated = 0.0, False, False
        for _ in range(self.action_repeat):
            result = self._env.step(control)
            reward += result.reward
            self._control_steps += 1
            terminated = result.last() and result.discount == 0
            truncated = not terminated and (result.last() or self._control_steps == TIME_LIMIT)
            if terminated or truncated:
                break
        self._return += reward
        info: dict[str, Any] = {}
        if terminated or truncated:
            info["episode"] = {"r": float(self._return), "l": -(-self._control_steps // self.action_repeat)}
        return self._frame(), float(reward), terminated, truncated, info

    def get_state(self) -> dict[str, Any]:
        """Return everything that what follows depends on, also what of the model the task changes, such as a target's place."""
        model = {
            name: field for name, field in _fields(self._physics.model).items() if not np.array_equal(field, self._built[name])
        }
        physics = np.empty(self._mujoco.mj_stateSize(self._physics.model.ptr, self._all))
        self._mujoco.mj_getState(self._physics.model.ptr, self._physics.data.ptr, physics, self._all)
        _, keys, *numbers = self._env.task.random.get_state()
        own = {"control_steps": self._control_steps, "return": float(self._return), "over": self._env._reset_next_step}
        task = {"keys": keys, "numbers": numbers, "step_count": self._env._step_count}
        rng = self.np_random.bit_generator.state
        return {"physics": physics, "model": model, "rng": rng, "task": task, **own}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what `get_state` gave."""
        self._env.reset()
        for name, field in _fields(self._physics.model).items():
            field[...] = state["model"].get(name, self._built[name])
        model, data = self._physics.model.ptr, self._physics.data.ptr
        self._mujoco.mj_setState(model, data, state["physics"], self._all)
        with self._physics.contexts.gl.make_current() as context:
            for terrain in range(model.nhfield):  # the renderer has a copy of its own
                context.call(self._mujoco.mjr_uploadHField, model, self._physics.contexts.mujoco.ptr, terrain)
        self._mujoco.mj_step1(model, data)  # what follows from positions and velocities, as after a step
        self._env.task.random.set_state(("MT19937", state["task"]["keys"], *state["task"]["numbers"]))
        self._env._step_count, self._env._reset_next_step = state["task"]["step_count"], state["over"]
        self.np_random.bit_generator.state = state["rng"]
        self._control_steps, self._return = state["control_steps"], state["return"]

    def _frame(self) -> NDArray[np.uint8]:
        return np.ascontiguousarray(self._picture(self.size).transpose(2, 0, 1))

    def _picture(self, size: int) -> NDArray[np.uint8]:
        picture: NDArray[np.uint8] = self._physics.render(size, size, camera_id=self.camera, render_flag_overrides=self._flags)
        return picture

    def render(self) -> NDArray[np.uint8] | None:
        """Return a picture [240, 240, 3] uint8 in render mode "rgb_array"."""
        return self._picture(FILM_SIZE) if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Free the renderer."""
        self._env.close()


def _fields(model: Any) -> dict[str, NDArray[Any]]:
    """Return the arrays of a MuJoCo model, by name."""
    found = {name: getattr(model.ptr, name) for name in dir(model.ptr) if not name.startswith("_")}
    return {name: field for name, field in found.items() if isinstance(field, np.ndarray) and field.flags.writeable}


def _suite() -> Any:
    """Import dm_control.suite with a renderer that works here. Raises ImportError or OSError with what to install."""
    try:
        if "dm_control" not in sys.modules:
            if importlib.util.find_spec("mujoco") is None:
                raise ModuleNotFoundError("mujoco")
            # Render in the calling thread: a thread of the renderer's own is gone before the renderers are, when Python ends.
            offloading = os.environ.get("DISABLE_RENDER_THREAD_OFFLOADING", "1")
            # Mesa's threads gain little on images as small as these, and take the cores on which the agent learns.
            threads = os.environ.get("LP_NUM_THREADS", "0")
            with _environment(MUJOCO_GL=renderer(), DISABLE_RENDER_THREAD_OFFLOADING=offloading, LP_NUM_THREADS=threads):
                return importlib.import_module("dm_control.suite")
        return importlib.import_module("dm_control.suite")
    except ModuleNotFoundError as error:
        if sys.version_info >= (3, 13):
            raise ImportError(
                "DeepMind Control needs Python 3.11 or 3.12: dm_control needs labmaze, which has no package for newer ones"
            ) from error
        raise ImportError(f"DeepMind Control needs the extra [dmc]: {install('dmc')}") from error


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Set variables for a while: dm_control and MuJoCo read theirs when they are imported."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def renderer() -> str:
    """Return a value of MUJOCO_GL that works: the user's; else EGL on a GPU; on a CPU OSMesa, which is faster there, or EGL."""
    gpu = Path("/dev/nvidia0").exists() or Path("/dev/dri").exists()
    known = ("glfw",) if sys.platform != "linux" else ("egl", "osmesa") if gpu else ("osmesa", "egl")
    chosen = os.environ.get("MUJOCO_GL", "").strip().lower()  # dm_control, unlike MuJoCo, heeds the case
    for name in (chosen,) if chosen else known:
        # In a process of its own: a renderer that fails can leave libraries half loaded, or end the process.
        environment = {**os.environ, "MUJOCO_GL": name}
        if subprocess.run([sys.executable, "-c", PROBE], env=environment, capture_output=True, check=False).returncode == 0:
            return name
    if chosen:
        raise OSError(f"the renderer that MUJOCO_GL={chosen} asks for does not work here: unset it, or install it")
    raise OSError("nothing here can render without a screen: install OSMesa (Debian and Ubuntu: apt-get install libosmesa6)")


def _task(task: str, tasks: tuple[tuple[str, str], ...]) -> tuple[str, str]:
    """Return the suite's (domain, task) of "walker-walk", however it is spelled. Raises ValueError with the nearest names."""

    names = {plain(domain + name): (domain, name) for domain, name in tasks}
    if plain(task) in names:
        return names[plain(task)]
    near = ["-".join(names[name]) for name in difflib.get_close_matches(plain(task), names, n=3, cutoff=0.5)]
    hint = f"did you mean {', '.join(near)}?" if near else f"there are {len(names)}, for example cartpole-swingup, walker-walk"
    raise ValueError(f"there is no DeepMind Control task {task!r}: {hint}")


# ---- the family --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """What the paper sets per DeepMind Control task. It tuned both T_f on the reported score."""

    steps: int  # agent steps; those beyond cartpole's are ours: half a million control steps
    freeze_step: int
    freeze_step_limited: int  # with the memory of `frames`
    frames: int


TASKS = {
    "cartpoleswingup": Task(80_000, 10_000, 10_000, 1_000),
    "fingerspin": Task(250_000, 50_000, 50_000, 1_000),
    "reachereasy": Task(125_000, 50_000, 30_000, 2_000),
    "cheetahrun": Task(125_000, 80_000, 80_000, 1_000),
    "walkerwalk": Task(250_000, 60_000, 80_000, 2_000),
}
OTHER_TASK = Task(250_000, 80_000, 80_000, 2_000)  # the latest of the published times
FRAME_BYTES = 3 * 100 * 100

# Of DrQ-v2's authors, by how hard they found a task: agent steps in which the exploration noise falls. Of the suite's tasks
# that they did not train, the dog's are counted as hard and the rest as medium.
EASY_TASKS = {
    "ballincupcatch",
    "cartpolebalance",
    "cartpolebalancesparse",
    "cartpoleswingup",
    "fingerspin",
    "hopperstand",
    "pendulumswingup",
    "walkerstand",
    "walkerwalk",
}
HARD_BODIES = ("humanoid", "dog")
NOISE_STEPS = {"easy": 100_000, "medium": 500_000, "hard": 2_000_000}


def _defaults(task: str, agent: str) -> Settings:
    """Return DrQ-v2's settings for a task, as its authors chose them, and the camera that they looked through."""
    if agent != "drqv2":
        return {}
    task = plain(task)
    difficulty = "easy" if task in EASY_TASKS else "hard" if task.startswith(HARD_BODIES) else "medium"
    walker = {"agent.n_step": 1, "agent.batch_size": 512} if task.startswith("walker") else {}
    camera = {"environment.camera": 2} if task.startswith("quadruped") else {}
    return {"agent.noise_steps": NOISE_STEPS[difficulty], **walker, **camera}


def _paper(task: str, agent: str) -> Settings:
    """Keep every step, with the settings of the paper's table 4: CURL + SEER as in figures 2 and 12."""
    settings = TASKS.get(plain(task), OTHER_TASK)
    learning = {}
    if plain(task) == "cheetahrun" and agent in ("sac", "rad", "curl"):
        learning = {"agent.learning_rate": 2e-4, "agent.batch_size": 512}
    every = 2_500 if plain(task) == "cartpoleswingup" else 10_000
    return {"steps": settings.steps, "seer.freeze_step": settings.freeze_step, "eval.every": every, **learning}


def _paper_memory(task: str, agent: str) -> Settings:
    """Take little memory: CURL + SEER in 0.03 or 0.06 GB (figures 5 and 10)."""
    settings = TASKS.get(plain(task), OTHER_TASK)
    memory = settings.frames * FRAME_BYTES
    return {**_paper(task, agent), "replay.memory": memory, "seer.freeze_step": settings.freeze_step_limited}


def _paper_impala(task: str, agent: str) -> Settings:
    """Train CURL + SEER with the IMPALA encoder of 15 convolutions (figure 6b)."""
    return {**_paper(task, agent), "agent.encoder": "impala"}


def _paper_batch(task: str, agent: str) -> Settings:
    """Train CURL + SEER with batches of 128, and of 512 once that is cheap (figure 6a, there on cheetah-run)."""
    return {**_paper(task, agent), "agent.batch_size": 128, "seer.batch_size": 512}


FAMILY = Family(
    name="dmc",
    make=make,
    example="walker-walk",
    agent="curl",
    Config=ControlConfig,
    defaults=_defaults,
    presets={"paper": _paper, "paper-memory": _paper_memory, "paper-impala": _paper_impala, "paper-batch": _paper_batch},
    scale=lambda task: Scale(0.0, 1000.0),
)
