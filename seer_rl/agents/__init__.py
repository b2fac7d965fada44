"""Agents, and what they are made of."""
