"""Measurements of speed and memory: `python -m benchmarks.NAME`. Each prints one table, everything in it from that one run."""
