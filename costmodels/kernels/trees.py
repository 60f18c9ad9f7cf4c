"""Regression trees as flat arrays: what scikit-learn has grown, kept and asked without importing it.

Importing scikit-learn costs more time and memory than everything else that a plan does (and, where torch is installed,
loading its trees through a persistence library imports torch), and answering needs five arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import Floats

if TYPE_CHECKING:
    from sklearn.tree import DecisionTreeRegressor


@dataclass(frozen=True)
class Trees:
    """Several trees, their nodes one after another.

    Attributes:
        root: shape [trees], the node at which each tree begins.
        left, right: shape [nodes], where ``feature`` ≤ ``threshold`` leads, and where not; a leaf leads to itself.
        feature: shape [nodes], the column that is compared; 0 in leaves.
        threshold: shape [nodes].
        value: shape [nodes], the mean of the node's rows.
    """

    root: NDArray[np.int32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    feature: NDArray[np.int16]
    threshold: Floats
    value: Floats

    @classmethod
    def of(cls, models: Sequence[DecisionTreeRegressor]) -> Trees:
        """The fitted ``models``, each of one output."""
        parts = [model.tree_ for model in models]
        root = np.cumsum([0, *(part.node_count for part in parts)])[:-1]

        def joined(children: str) -> NDArray[np.int32]:
            columns = []
            for start, part in zip(root.tolist(), parts, strict=True):
                child = getattr(part, children)
                columns.append(start + np.where(child < 0, np.arange(len(child)), child))
            return np.concatenate(columns).astype(np.int32)

        return cls(
            root.astype(np.int32),
            joined("children_left"),
            joined("children_right"),
            np.concatenate([np.maximum(part.feature, 0) for part in parts]).astype(np.int16),
            np.concatenate([part.threshold for part in parts]),
            np.concatenate([part.value[:, 0, 0] for part in parts]),
        )

    def predict(self, features: NDArray[np.float32]) -> Floats:
        """What each tree says of ``features`` [n, columns], shape [trees, n]."""
        n, trees = len(features), len(self.root)
        flat, columns = np.ascontiguousarray(features, np.float32).ravel(), features.shape[1]
        node = np.repeat(self.root, n)
        row = np.tile(np.arange(n) * columns, trees)
        found = np.empty(n * trees)
        lane = np.arange(n * trees)
        while len(lane):
            low = flat[row + self.feature[node]] <= self.threshold[node]
            after = np.where(low, self.left[node], self.right[node])
            going = after != node
            ended = ~going
            found[lane[ended]] = self.value[node[ended]]
            node, row, lane = after[going], row[going], lane[going]
        return found.reshape(trees, n)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """By name, as the constructor takes them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
