"""The sum tree against plain sums: totals, proportions, zeros never drawn, any number of leaves."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from seer_rl.replay.sumtree import SumTree

sizes = st.floats(0, 1e6, allow_subnormal=False)


@given(st.lists(st.lists(sizes, min_size=1, max_size=70), min_size=1, max_size=4), st.integers(1, 70), st.randoms())
def test_total_and_leaves_follow_any_sequence_of_changes(changes: list[list[float]], n: int, random: object) -> None:
    tree, leaves = SumTree(np.zeros(2 * n)), np.zeros(n)
    rng = np.random.default_rng(len(changes))
    for values in changes:
        index = rng.integers(n, size=len(values))
        tree[index] = np.array(values)
        leaves[index] = values
        np.testing.assert_array_equal(tree[np.arange(n)], leaves)
        np.testing.assert_allclose(tree.total, leaves.sum(), rtol=1e-12)


@given(st.lists(sizes, min_size=1, max_size=70).filter(lambda xs: sum(xs) > 0))
def test_find_inverts_the_cumulative_sum(values: list[float]) -> None:
    n, leaves = len(values), np.array(values)
    tree = SumTree(np.zeros(2 * n))
    tree[np.arange(n)] = leaves
    mass = np.linspace(0, tree.total, 1000, endpoint=False)
    found = tree.find(mass)
    assert (leaves[found] > 0).all()
    # Each leaf is found for a stretch of mass as long as its value, whatever the order of the leaves.
    counts = np.bincount(found, minlength=n)
    np.testing.assert_allclose(counts / 1000, leaves / leaves.sum(), atol=2.5 / 1000)


def test_rounding_at_the_upper_end_never_finds_an_empty_leaf() -> None:
    for n in (3, 4, 7, 8, 1000):
        tree = SumTree(np.zeros(2 * n))
        tree[np.array([0])] = 0.1
        tree[np.array([n // 2])] = 0.2
        assert set(tree.find(np.array([np.nextafter(tree.total, 0), tree.total, tree.total * 1.1]))) <= {0, n // 2}


def test_a_rebuilt_tree_is_the_same_to_the_bit() -> None:
    """For every shape of tree, after many changes of some leaves at a time."""
    rng = np.random.default_rng(0)
    for n in (*range(1, 40), 1000, 65_536, 200_003):
        tree, other = SumTree(np.zeros(2 * n)), SumTree(np.zeros(2 * n))
        for _ in range(20):
            tree[rng.integers(n, size=32)] = rng.random(32) * 10.0 ** rng.integers(-8, 8, 32)
        other.nodes[n:] = tree.nodes[n:]
        other.rebuild()
        assert np.array_equal(other.nodes[1:], tree.nodes[1:])
