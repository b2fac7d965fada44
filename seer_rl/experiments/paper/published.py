"""What the paper published: scores, and operations by layer. Mean and standard deviation of five runs."""

from typing import NamedTuple


class Score(NamedTuple):
    mean: float
    std: float


# Table 1. Columns: Rainbow and Rainbow + SEER at 45T operations (figure 3); the same at 500,000 steps in 0.07 GB (figure 4).
SCORES: dict[str, tuple[Score, Score, Score, Score]] = {
    "Alien": (Score(992.0, 152.7), Score(1172.6, 239.0), Score(1038.4, 101.1), Score(1134.6, 452.9)),
    "Amidar": (Score(144.0, 27.4), Score(250.5, 47.4), Score(121.0, 31.2), Score(165.3, 47.6)),
    "BankHeist": (Score(145.8, 61.2), Score(276.6, 98.1), Score(161.6, 57.7), Score(151.8, 65.8)),
    "CrazyClimber": (Score(21580.0, 3514.6), Score(28066.0, 4108.5), Score(10498.0, 1387.8), Score(17620.0, 4418.4)),
    "Krull": (Score(2799.5, 468.1), Score(3277.5, 440.5), Score(2215.7, 336.9), Score(3069.2, 377.6)),
    "PrivateEye": (Score(81.5, 37.0), Score(100.0, 0.0), Score(80.0, 40.0), Score(80.0, 40.0)),
    "Qbert": (Score(2325.5, 1152.7), Score(4123.5, 1385.5), Score(2430.5, 658.8), Score(3231.0, 1567.6)),
    "Seaquest": (Score(402.8, 48.4), Score(561.2, 100.5), Score(262.8, 19.1), Score(336.8, 45.9)),
}
LATER = {("RoadRunner", 1): 11794.0}  # game and column: a later version has it in PrivateEye's place
BUDGET = 45e12  # operations, of the first two columns
STEPS = 500_000  # agent steps, of the other two

# Tables 2 and 3: multiply-adds of a forward pass by layer, to the digits that are known.
DMC_LAYERS = {
    "encoder: conv1": "4.36e6", "encoder: conv2": "1.40e7", "encoder: conv3": "1.26e7", "encoder: conv4": "1.13e7",
    "critic: fc1": "1.96e6", "critic: fc2": "5.3e4", "critic: fc3": "1.05e6", "critic: fc4": "1.0e3",
    "actor: fc1": "1.96e6", "actor: fc2": "5.2e4", "actor: fc3": "1.05e6", "actor: fc4": "2.0e3",
}  # fmt: skip
ATARI_LAYERS = {
    "encoder: conv1": "8.19e5", "encoder: conv2": "4.61e5", "value stream: fc1": "1.47e5", "value stream: fc2": "1.31e4",
    "advantage stream: fc1": "1.47e5", "advantage stream: fc2": "1.31e4",  # the last one per action
}  # fmt: skip
