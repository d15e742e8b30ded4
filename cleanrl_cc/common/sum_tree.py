"""Numbers that are drawn as often as they are large: of a million nearly as fast as of a thousand."""

import math

import numpy as np


class SumTree:
    """An array of numbers of at least 0, of which `find` draws.

    They are the leaves of a binary tree in one array, where node i is the sum of nodes 2i and 2i + 1.

    Args:
        shape: of the array, which begins with zeros.

    Attributes:
        nodes: the whole tree, from node 1 on, for a checkpoint.
    """

    def __init__(self, shape: tuple[int, ...]):
        size = math.prod(shape)
        self.num_leaves = 2 ** math.ceil(math.log2(size))
        self.nodes = np.zeros(2 * self.num_leaves)
        self.leaves = self.nodes[self.num_leaves :][:size].reshape(shape)  # a view
        self.places = self.num_leaves + np.arange(size).reshape(shape)  # of the leaves in the tree

    @property
    def total(self) -> float:
        return self.nodes[1]

    def __getitem__(self, index) -> np.ndarray:
        return self.leaves[index]

    def __setitem__(self, index, values):
        self.leaves[index] = values
        nodes = self.places[index].ravel()
        while nodes[0] > 1:  # level by level
            nodes = nodes // 2
            self.nodes[nodes] = self.nodes[2 * nodes] + self.nodes[2 * nodes + 1]

    def find(self, sums: np.ndarray) -> tuple[np.ndarray, ...]:
        """Where the running sum of the array passes each of `sums` (B,), which are below the total: indices,
        (B,) for each dimension of the array. No number there is 0."""
        nodes = np.ones(len(sums), int)
        while nodes[0] < self.num_leaves:  # from the root down, level by level
            left = self.nodes[2 * nodes]
            goes_right = (sums >= left) & (self.nodes[2 * nodes + 1] > 0)  # whatever rounding says
            nodes = 2 * nodes + goes_right
            sums = sums - left * goes_right
        return np.unravel_index(nodes - self.num_leaves, self.leaves.shape)
