"""Sums are those of the numbers, and `find` stops where a walk along them does."""

import numpy as np
import pytest

from cleanrl_cc.common.sum_tree import SumTree

SHAPES = [(1,), (2, 1), (50, 3), (64,)]


def tree_of(numbers: np.ndarray) -> SumTree:
    tree = SumTree(numbers.shape)
    tree[np.arange(len(numbers))] = numbers
    return tree


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_node_is_the_sum_of_the_two_below(shape):
    rng = np.random.default_rng(1)
    tree = SumTree(shape)
    numbers = np.zeros(shape)
    for _ in range(50):
        index = rng.integers(0, shape[0], 5)  # some of them twice: the last one counts
        values = rng.exponential(size=(5, *shape[1:]))
        tree[index] = values
        numbers[index] = values
        assert np.array_equal(tree.leaves, numbers) and np.array_equal(tree[index], numbers[index])
        half = len(tree.nodes) // 2
        assert np.array_equal(tree.nodes[1:half], tree.nodes[2:].reshape(-1, 2).sum(axis=1))
        assert tree.total == pytest.approx(numbers.sum())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_finds_what_a_walk_along_the_numbers_finds(shape):
    rng = np.random.default_rng(2)
    numbers = rng.exponential(size=shape) * (rng.random(shape) < 0.7)
    numbers.flat[0] = 1.0
    sums = rng.random(200) * numbers.sum()
    found = np.ravel_multi_index(tree_of(numbers).find(sums), shape)
    for place, goal in zip(found, sums, strict=True):
        leaf = 0
        while goal >= numbers.flat[leaf]:
            goal -= numbers.flat[leaf]
            leaf += 1
        assert place == leaf


def test_a_sum_that_rounding_made_too_large_finds_the_last_number_that_is_not_0():
    tree = tree_of(np.array([0.1, 0.2, 0.3, 0.0, 0.0]))
    (places,) = tree.find(np.array([tree.total, np.nextafter(tree.total, 2)]))
    assert places.tolist() == [2, 2]
