"""Atari 2600 games on the Arcade Learning Environment, as the paper plays them.

No sticky actions, minimal action set, an agent step = 4 frames, grey frames of 84x84 (each resized bilinearly, then the maximum
of the last two), a stack of 4 in which a life's first frame stands for those before it.
"""

import difflib
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from seer_rl.envs.base import EnvConfig, Family, Scale, Settings
from seer_rl.text import install, plain

FRAMES_PER_STEP = 4
STACK = 4
SIZE = 84
MAX_FRAMES = 108_000  # half an hour of play
MAX_NOOPS = 30
TWO_PLAYERS = {"combat", "joust", "maze_craze", "warlords"}  # the emulator ends the process where one is to play them
REPLAYED = 256  # frames: a restored game plays at least its latest so many again
RESET = 255  # in the place of an action: a new game


def make(
    game: str, settings: EnvConfig, training: bool, render_mode: str | None = None
) -> gym.Env[NDArray[np.uint8], np.int64]:
    """Make the stacked environment of `game` ("alien", "BankHeist", "bank_heist"): observations [4, 84, 84] uint8."""
    env = Atari(game, training, render_mode)
    return gym.wrappers.FrameStackObservation(env, STACK, padding_type="reset")


class Atari(gym.Env[NDArray[np.uint8], np.int64]):
    """One game. In training, the loss of a life terminates the episode (the game goes on) and rewards are clipped to [-1, 1].

    At the end of a whole game `info["episode"]` tells its unclipped score "r" and its length "l" in agent steps.
    """

    max_episode_steps = MAX_FRAMES // FRAMES_PER_STEP
    metadata = {"render_modes": ["rgb_array"], "render_fps": 60 // FRAMES_PER_STEP}  # noqa: RUF012 (gymnasium's own attribute)

    def __init__(self, game: str, training: bool, render_mode: str | None = None) -> None:
        """Load the game. Raises ValueError if there is no such game, and ImportError without the extra [atari]."""
        try:
            import ale_py
            import cv2
        except ImportError as error:
            raise ImportError(f"Atari needs the extra [atari]: {install('atari')}") from error
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self._resize, self._linear = cv2.resize, cv2.INTER_LINEAR
        self._rom = Path(str(ale_py.roms.get_rom_path(_rom(game, ale_py.roms.get_all_rom_ids()))))
        self._state = ale_py.ALEState
        self._ale = ale_py.ALEInterface()
        self._ale.setFloat("repeat_action_probability", 0.0)
        self._load(seed=0)
        self._actions = [action.value for action in self._ale.getMinimalActionSet()]
        self._training, self.render_mode = training, render_mode
        self.observation_space = gym.spaces.Box(0, 255, (SIZE, SIZE), np.uint8)
        self.action_space = gym.spaces.Discrete(len(self._actions))
        self._screen = np.empty(self._ale.getScreenDims(), np.uint8)
        self._lives, self._score, self._steps = 0, 0.0, 0
        self._life_lost = False  # the episode ended with a life, the game goes on

    def _load(self, seed: int) -> None:
        # Where the emulator was, or the seed of its beginning, and the actions of the frames since; at most two such stretches.
        self._history: list[tuple[Any, list[int]]] = [(seed, [])]
        self._ale.setInt("random_seed", seed)  # read when a game is loaded
        self._ale.loadROM(self._rom)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Start a game with 0 to 30 random no-ops, or go on with the next life. A seed always starts a game."""
        super().reset(seed=seed)
        if seed is not None:
            self._load(int(self.np_random.integers(2**31)))
        if self._life_lost and seed is None:
            self._act(0)
        else:
            self._act(RESET)
            self._score, self._steps = 0.0, 0
            for _ in range(int(self.np_random.integers(MAX_NOOPS + 1))):
                self._act(0)
                if self._ale.game_over():
                    self._act(RESET)
        self._life_lost, self._lives = False, self._ale.lives()
        return self._observe(), {"lives": self._lives}

    def step(self, action: np.int64 | int) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Repeat `action` for 4 frames. A game of 108,000 frames is truncated."""
        reward, frames = 0.0, []
        for repeat in range(FRAMES_PER_STEP):
            reward += self._act(self._actions[action])
            over = self._ale.game_over()
            if over or repeat >= FRAMES_PER_STEP - 2:
                frames.append(self._observe())
            if over:
                break
        self._score += reward
        self._steps += 1
        truncated = not over and self._ale.getEpisodeFrameNumber() >= MAX_FRAMES
        lives, terminated = self._ale.lives(), over
        if self._training:
            reward = float(np.clip(reward, -1, 1))
            # Q*bert shows no lives for some frames before its game is over: only a loss with lives left ends an episode.
            self._life_lost = 0 < lives < self._lives and not over and not truncated
            terminated = over or self._life_lost
        self._lives = lives
        info: dict[str, Any] = {"lives": lives}
        if over or truncated:
            info["episode"] = {"r": self._score, "l": self._steps}
        return np.maximum.reduce(frames), reward, terminated, truncated, info

    def get_state(self) -> dict[str, Any]:
        """Return everything that what follows depends on.

        Where a game does not draw a frame, what was drawn before is still shown, and of that a console's state knows nothing.
        So the state is one of `REPLAYED` frames ago or more, where there is one, and the actions since.
        """
        begun = self._history[0][0]
        emulator = np.frombuffer(b"" if isinstance(begun, int) else begun.serialize(), np.uint8)
        since = np.array([action for _, actions in self._history for action in actions], np.uint8)
        own = {"lives": self._lives, "score": self._score, "steps": self._steps, "life_lost": self._life_lost}
        seed = begun if isinstance(begun, int) else 0
        return {"emulator": emulator, "seed": seed, "since": since, "rng": self.np_random.bit_generator.state, **own}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what `get_state` gave."""
        if len(state["emulator"]):
            self._ale.reset_game()
            self._ale.act(0)  # a console that has never shown a frame is not wholly restored
            self._ale.restoreState(self._state(state["emulator"].tobytes()))
            self._history = [(self._ale.cloneState(include_rng=True), [])]
        else:
            self._load(state["seed"])
        for action in state.get("since", ()):  # version 0.1.0 saved none
            self._act(int(action))
        self.np_random.bit_generator.state = state["rng"]
        self._lives, self._score = state["lives"], state["score"]
        self._steps, self._life_lost = state["steps"], state["life_lost"]

    def _act(self, action: int) -> float:
        actions = self._history[-1][1]
        if len(actions) >= REPLAYED and actions[-1] != RESET:  # before its first frame a game's state is not whole
            self._history = [self._history[-1], (self._ale.cloneState(include_rng=True), [])]
        self._history[-1][1].append(action)
        if action == RESET:
            self._ale.reset_game()
            return 0.0
        reward: float = self._ale.act(action)
        return reward

    def _observe(self) -> NDArray[np.uint8]:
        self._ale.getScreenGrayscale(self._screen)
        return np.asarray(self._resize(self._screen, (SIZE, SIZE), interpolation=self._linear), np.uint8)

    def render(self) -> NDArray[np.uint8] | None:
        """Return the colour screen [210, 160, 3] uint8 in render mode "rgb_array"."""
        screen: NDArray[np.uint8] | None = self._ale.getScreenRGB() if self.render_mode == "rgb_array" else None
        return screen


def _rom(game: str, roms: list[str]) -> str:
    """Return ALE's name of a game, however it is spelled. Raises ValueError with the nearest names."""

    names = {plain(rom): rom for rom in roms}
    if plain(game) in names:
        if names[plain(game)] in TWO_PLAYERS:
            raise ValueError(f"the Atari game {names[plain(game)]} is for two players, and the emulator has no mode for one")
        return names[plain(game)]
    near = [names[name] for name in difflib.get_close_matches(plain(game), names, n=3, cutoff=0.5)]
    hint = f"did you mean {', '.join(near)}?" if near else f"there are {len(roms)}, for example alien, pong, seaquest"
    raise ValueError(f"there is no Atari game {game!r}: {hint}")


# ---- the family --------------------------------------------------------------------------------------------------

# T_f per game: (with every step kept, with 0.07 GB). The paper's tables; it tuned them on the reported score. For RoadRunner,
# which a later version has in PrivateEye's place, none was published: ours, as for most games.
FREEZE_STEPS = {
    "alien": (50_000, 100_000),
    "amidar": (50_000, 50_000),
    "bankheist": (50_000, 50_000),
    "crazyclimber": (100_000, 100_000),
    "krull": (50_000, 50_000),
    "privateeye": (100_000, 150_000),
    "qbert": (100_000, 100_000),
    "roadrunner": (50_000, 50_000),
    "seaquest": (50_000, 150_000),
}
OTHERS = 100_000, 150_000  # elsewhere: the latest of the published times
MEMORY = 10_000 * SIZE * SIZE  # bytes; "0.07 GB": 10,000 frames
DER_STEPS = 100_000  # agent steps after which the scores of data-efficient Rainbow were published


def _paper(game: str, agent: str) -> Settings:
    """Keep every step: Rainbow + SEER as in figures 3 and 13, 500,000 steps."""
    return {"steps": 500_000, "seer.freeze_step": FREEZE_STEPS.get(plain(game), OTHERS)[0]}


def _paper_memory(game: str, agent: str) -> Settings:
    """Take little memory: Rainbow + SEER in 0.07 GB (figures 4 and 11)."""
    return {"steps": 500_000, "seer.freeze_step": FREEZE_STEPS.get(plain(game), OTHERS)[1], "replay.memory": MEMORY}


def _der(game: str, agent: str) -> Settings:
    """Train data-efficient Rainbow (van Hasselt et al., 2019), the strongest baseline, for its 100,000 agent steps.

    It is never frozen; it samples every step by priority and plays at random until it learns. Returns are summed over 20 steps,
    as in that paper, whose scores ours are compared with, and in SEER's; Dopamine's version takes 10.
    """
    if agent != "rainbow":
        raise ValueError(f"the preset der is Rainbow's: leave out --agent {agent}")
    return {"steps": DER_STEPS, "replay.priority_exponent": 0.5, "agent.random_steps": 1_600}  # learning starts then


def _quick(game: str, agent: str) -> Settings:
    """Take a quarter of an hour on two cores: a game learnt in that time, frozen early, in a small replay that then grows."""
    named = {} if game else {"env": "atari/road_runner"}
    return {**named, "steps": 40_000, "seer.freeze_step": 8_000, "replay.memory": 35_000_000}


# Scores of a random player and of a professional human tester, with up to 30 no-ops at the start (Wang et al., 2016, appendix).
SCORES = {
    "alien": (227.8, 7127.7), "amidar": (5.8, 1719.5), "assault": (222.4, 742.0), "asterix": (210.0, 8503.3),
    "asteroids": (719.1, 47388.7), "atlantis": (12850.0, 29028.1), "bankheist": (14.2, 753.1), "battlezone": (2360.0, 37187.5),
    "beamrider": (363.9, 16926.5), "berzerk": (123.7, 2630.4), "bowling": (23.1, 160.7), "boxing": (0.1, 12.1),
    "breakout": (1.7, 30.5), "centipede": (2090.9, 12017.0), "choppercommand": (811.0, 7387.8),
    "crazyclimber": (10780.5, 35829.4), "defender": (2874.5, 18688.9), "demonattack": (152.1, 1971.0),
    "doubledunk": (-18.6, -16.4), "enduro": (0.0, 860.5), "fishingderby": (-91.7, -38.7), "freeway": (0.0, 29.6),
    "frostbite": (65.2, 4334.7), "gopher": (257.6, 2412.5), "gravitar": (173.0, 3351.4), "hero": (1027.0, 30826.4),
    "icehockey": (-11.2, 0.9), "jamesbond": (29.0, 302.8), "kangaroo": (52.0, 3035.0), "krull": (1598.0, 2665.5),
    "kungfumaster": (258.5, 22736.3), "montezumarevenge": (0.0, 4753.3), "mspacman": (307.3, 6951.6),
    "namethisgame": (2292.3, 8049.0), "phoenix": (761.4, 7242.6), "pitfall": (-229.4, 6463.7), "pong": (-20.7, 14.6),
    "privateeye": (24.9, 69571.3), "qbert": (163.9, 13455.0), "riverraid": (1338.5, 17118.0), "roadrunner": (11.5, 7845.0),
    "robotank": (2.2, 11.9), "seaquest": (68.4, 42054.7), "skiing": (-17098.1, -4336.9), "solaris": (1236.3, 12326.7),
    "spaceinvaders": (148.0, 1668.7), "stargunner": (664.0, 10250.0), "surround": (-10.0, 6.5), "tennis": (-23.8, -8.3),
    "timepilot": (3568.0, 5229.2), "tutankham": (11.4, 167.6), "upndown": (533.4, 11693.2), "venture": (0.0, 1187.5),
    "videopinball": (16256.9, 17667.9), "wizardofwor": (563.5, 4756.5), "yarsrevenge": (3092.9, 54576.9),
    "zaxxon": (32.5, 9173.3),
}  # fmt: skip


def _scale(game: str) -> Scale | None:
    scores = SCORES.get(plain(game))
    return Scale(*scores, ("random player", "human")) if scores else None


FAMILY = Family(
    name="atari",
    make=make,
    example="alien",
    presets={
        "paper": _paper,
        "paper-memory": _paper_memory,
        "paper-impala": lambda game, agent: {**_paper(game, agent), "agent.encoder": "impala"},
        "paper-batch": lambda game, agent: {**_paper(game, agent), "agent.batch_size": 128, "seer.batch_size": 512},
        "der": _der,
        "quick": _quick,
    },
    scale=_scale,
)
