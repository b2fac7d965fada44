"""Environments: gymnasium environments whose observations are uint8 stacks of frames."""
