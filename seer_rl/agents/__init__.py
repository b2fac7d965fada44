"""Agents. Adding one is a file beside these that meets `base.Agent`, and its class here."""

from seer_rl.agents.curl import CURL
from seer_rl.agents.dqn import DQN
from seer_rl.agents.drqv2 import DrQv2
from seer_rl.agents.rainbow import Rainbow
from seer_rl.agents.sac import RAD, SAC

AGENTS = (Rainbow, DQN, CURL, RAD, SAC, DrQv2)  # of each kind of actions, the one that is proposed first comes first
