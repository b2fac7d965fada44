"""SEER: Stored Embeddings for Efficient Reinforcement Learning."""

__version__ = "0.1.0"
