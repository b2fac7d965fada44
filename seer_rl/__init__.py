"""Train reinforcement learning agents from pixels with stored embeddings: SEER.

The idea is one function, `freeze(agent, replay)`: it ends the training of an agent's encoder, and replaces the images in the
replay by embeddings. What else a program of one's own needs is here, too. Importing this module is quick, since it loads
neither torch nor numpy: every name is loaded when it is first used.
"""

from typing import TYPE_CHECKING

__version__ = "0.2.0.dev0"  # of the release that CHANGELOG.md calls unreleased

__all__ = (
    "CURL",
    "DQN",
    "RAD",
    "SAC",
    "Agent",
    "AgentConfig",
    "Batch",
    "CURLConfig",
    "ConvergenceMonitor",
    "DQNConfig",
    "DrQv2",
    "DrQv2Config",
    "Dtype",
    "EnvConfig",
    "Family",
    "Freezable",
    "RADConfig",
    "Rainbow",
    "RainbowConfig",
    "Replay",
    "Rewriter",
    "SACConfig",
    "Seam",
    "Signals",
    "Unfit",
    "converged",
    "embedder",
    "freeze",
    "make",
)

if TYPE_CHECKING:  # what type checkers and editors read
    from seer_rl.agents.base import Agent, AgentConfig, Freezable
    from seer_rl.agents.curl import CURL, CURLConfig
    from seer_rl.agents.dqn import DQN, DQNConfig
    from seer_rl.agents.drqv2 import DrQv2, DrQv2Config
    from seer_rl.agents.rainbow import Rainbow, RainbowConfig
    from seer_rl.agents.sac import RAD, SAC, RADConfig, SACConfig
    from seer_rl.convergence import ConvergenceMonitor, Signals, converged
    from seer_rl.envs import make
    from seer_rl.envs.base import EnvConfig, Family
    from seer_rl.replay.codec import Dtype
    from seer_rl.replay.observation import Unfit
    from seer_rl.replay.replay import Batch, Replay, Rewriter
    from seer_rl.seer import Seam, embedder, freeze
else:  # what Python does: it imports a name's module when the name is first used
    _MODULES = {
        "agents.base": "Agent AgentConfig Freezable",
        "agents.curl": "CURL CURLConfig",
        "agents.dqn": "DQN DQNConfig",
        "agents.drqv2": "DrQv2 DrQv2Config",
        "agents.rainbow": "Rainbow RainbowConfig",
        "agents.sac": "RAD SAC RADConfig SACConfig",
        "convergence": "ConvergenceMonitor Signals converged",
        "envs": "make",
        "envs.base": "EnvConfig Family",
        "replay.codec": "Dtype",
        "replay.observation": "Unfit",
        "replay.replay": "Batch Replay Rewriter",
        "seer": "Seam embedder freeze",
    }

    def __getattr__(name):
        from importlib import import_module

        for module, names in _MODULES.items():
            if name in names.split():
                globals()[name] = found = getattr(import_module(f"{__name__}.{module}"), name)
                return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *__all__})
