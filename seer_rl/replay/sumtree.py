"""Hold n numbers in a sum tree, where changing one, and drawing one in proportion to its size, take O(log n) steps.

Prioritized experience replay (Schaul et al., 2016, appendix B.2.1) draws transition i with probability p_i / sum_j p_j.
"""

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]
CHUNK = 1 << 16  # nodes that a rebuild computes at once: they bound the memory it needs beside the tree


class SumTree:
    """Keep `n` leaves under a binary tree, in one float64 array of 2n nodes: node i is the sum of nodes 2i and 2i + 1.

    The leaves are nodes n to 2n - 1, and node 1 is the total. Node 0 is unused. Where n is no power of two, the leaves lie on
    two levels, which changes neither the sums nor the proportions.
    """

    def __init__(self, nodes: NDArray[np.float64]) -> None:
        """Make a tree in `nodes` [2n] float64, which must be zeros. The tree has no memory of its own."""
        self.nodes = nodes
        self.n = len(nodes) // 2

    @property
    def total(self) -> float:
        """Return the sum of all leaves."""
        return float(self.nodes[1])

    @property
    def leaves(self) -> NDArray[np.float64]:
        """Return all leaves [n] float64, as a view. Call `rebuild` after writing to it."""
        return self.nodes[self.n :]

    def __getitem__(self, index: Index) -> NDArray[np.float64]:
        """Return the leaves `index` [B]."""
        return self.nodes[index + self.n]

    def __setitem__(self, index: Index, value: NDArray[np.float64] | float) -> None:
        """Set the leaves `index` [B] to `value` [B], which is not negative, and the sums above them, level by level.

        Where an index occurs twice, its last value counts. A parent is computed from both of its children, not adjusted by a
        difference: so rounding errors do not add up, and a parent that two leaves share may be computed twice.
        """
        node = index + self.n
        self.nodes[node] = value
        while node.size and node.max() > 1:
            node = np.maximum(node // 2, 1)
            self.nodes[node] = self.nodes[2 * node] + self.nodes[2 * node + 1]

    def rebuild(self) -> None:
        """Compute every sum from the leaves. The bits are those that setting the leaves one by one gives."""
        high = self.n
        while high > 1:  # nodes [low, high) are the parents of nodes [high, 2 high), and at times of the node before
            low = (high + 1) // 2
            for begin in range(low, high, CHUNK):
                end = min(begin + CHUNK, high)
                self.nodes[begin:end] = self.nodes[2 * begin : 2 * end : 2] + self.nodes[2 * begin + 1 : 2 * end : 2]
            high = low

    def find(self, mass: NDArray[np.float64]) -> Index:
        """Find the leaves [B] at the cumulative masses `mass` [B], in [0, total).

        For uniform masses a leaf is found with a probability in proportion to its size. A leaf of 0 is never found.
        """
        node = np.ones(len(mass), dtype=np.int64)
        mass = mass.copy()
        while (inner := node < self.n).any():
            left = np.where(inner, 2 * node, node)  # a walk that has reached its leaf stays there
            right_sum = self.nodes[np.minimum(left + 1, 2 * self.n - 1)]
            # Rounding may leave a walk just beyond the last leaf that is not 0: it must not turn into a branch of zeros.
            go_right = inner & (mass >= self.nodes[left]) & (right_sum > 0)
            mass = np.where(go_right, mass - self.nodes[left], mass)
            node = np.where(go_right, left + 1, left)
        return node - self.n
