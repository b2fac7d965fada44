"""A sum tree: numbers that can be changed and drawn in proportion to their size, both in O(log n).

Prioritized experience replay (Schaul et al., 2016, appendix B.2.1) draws transition i with probability p_i / sum_j p_j.
"""

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]
CHUNK = 1 << 16  # nodes that a rebuild computes at once; bounds what it needs beside the tree


class SumTree:
    """`n` leaves under a binary tree in one float64 array of 2n nodes: node i is the sum of nodes 2i and 2i + 1.

    Leaves are nodes n to 2n - 1 and node 1 is the total; node 0 is unused. `n` need not be a power of two: the leaves then
    lie on two levels, which changes neither the sums nor the proportions.
    """

    def __init__(self, nodes: NDArray[np.float64]) -> None:
        """`nodes`: [2n] float64 of zeros; the tree lives in it, so its bytes are the caller's to count."""
        self.nodes = nodes
        self.n = len(nodes) // 2

    @property
    def total(self) -> float:
        """The sum of all leaves."""
        return float(self.nodes[1])

    @property
    def leaves(self) -> NDArray[np.float64]:
        """All leaves [n], as a view: after writing to it, `rebuild`."""
        return self.nodes[self.n :]

    def __getitem__(self, index: Index) -> NDArray[np.float64]:
        return self.nodes[index + self.n]

    def __setitem__(self, index: Index, value: NDArray[np.float64] | float) -> None:
        """Set leaves `index` [B] to `value` [B] >= 0 and mend the sums above them, level by level.

        Parents are recomputed from both children rather than adjusted by a difference: rounding never accumulates, and
        recomputing a shared parent twice does no harm. Of an index that occurs twice the last value stands.
        """
        node = index + self.n
        self.nodes[node] = value
        while node.size and node.max() > 1:
            node = np.maximum(node // 2, 1)
            self.nodes[node] = self.nodes[2 * node] + self.nodes[2 * node + 1]

    def rebuild(self) -> None:
        """Compute every sum from the leaves, to the bits that changing the leaves one by one gives."""
        high = self.n
        while high > 1:  # nodes [low, high) are the parents of nodes [high, 2 high), and maybe of one before
            low = (high + 1) // 2
            for begin in range(low, high, CHUNK):
                end = min(begin + CHUNK, high)
                self.nodes[begin:end] = self.nodes[2 * begin : 2 * end : 2] + self.nodes[2 * begin + 1 : 2 * end : 2]
            high = low

    def find(self, mass: NDArray[np.float64]) -> Index:
        """Leaves [B] at cumulative masses `mass` [B] in [0, total): a leaf is found in proportion to its size, never if 0."""
        node = np.ones(len(mass), dtype=np.int64)
        mass = mass.copy()
        while (inner := node < self.n).any():
            left = np.where(inner, 2 * node, node)  # a walk that has reached its leaf stays there
            right_sum = self.nodes[np.minimum(left + 1, 2 * self.n - 1)]
            # Rounding may leave a walk a hair beyond the last non-empty leaf: it must not turn into an empty branch.
            go_right = inner & (mass >= self.nodes[left]) & (right_sum > 0)
            mass = np.where(go_right, mass - self.nodes[left], mass)
            node = np.where(go_right, left + 1, left)
        return node - self.n
