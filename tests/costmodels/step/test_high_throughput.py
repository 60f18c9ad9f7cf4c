"""The high-throughput exchange between nodes: what leaves over the cards, together with what is handed out within."""

from __future__ import annotations

import numpy as np
import pytest

from costmodels.estimates import Floats
from costmodels.operations.exchanges import HIGH_THROUGHPUT
from costmodels.operations.questions import ExpertExchange
from costmodels.step.expert_exchange import exchange_facts, handed_out_us, high_throughput_us, nodes_reached

CARDS = 50e9


def _asked(nodes: int, tokens: float = 4096) -> ExpertExchange:
    """As DeepEP's test routes: a group of experts a node, four at most."""
    return ExpertExchange(
        np.array([HIGH_THROUGHPUT]), np.array([tokens]), np.ones(1), 7168, 8, 256, nodes, min(nodes, 4),
        np.array([8 * nodes]), np.zeros(1, np.int64), 1.0,
    )  # fmt: skip


def _gb_s(nodes: int, near_gb_s: float, place: str = "infiniband", phase: str = "dispatch") -> float:
    """Counted as DeepEP counts: a token once for each node that it needs. ``near_gb_s``: of copies within a node."""
    asked, at = _asked(nodes), np.array([nodes])
    width = 7408.0 if phase == "dispatch" else 2 * 7168.0
    near: Floats = 4096 * 5.25 * width / near_gb_s / 1e3 * np.ones(1)
    law = exchange_facts()["high_throughput"][place]
    time = high_throughput_us(law, CARDS, phase, asked, at, handed_out_us(asked, at, near))
    return float((4096 * nodes_reached(at, asked) * width / time / 1e3)[0])


@pytest.mark.parametrize(("nodes", "published"), [(2, 43), (4, 58), (8, 51)])
def test_h800_is_bound_by_its_halved_nvlink_between_two_nodes_and_by_its_cards_beyond(
    nodes: int, published: float
) -> None:
    """DeepEP's README: 153 GB/s within a node."""
    assert _gb_s(nodes, 153) == pytest.approx(published, rel=0.1)


@pytest.mark.parametrize(("nodes", "published"), [(2, 74), (4, 60), (8, 52)])
def test_mi300x_is_bound_by_its_cards(nodes: int, published: float) -> None:
    """UCCL-EP's README: 260 GB/s within a node."""
    assert _gb_s(nodes, 260) == pytest.approx(published, rel=0.06)


def test_more_bytes_take_longer_and_slower_cards_too() -> None:
    asked, at, none = _asked(4, 2048), np.array([4]), np.zeros(1)
    law = exchange_facts()["high_throughput"]["infiniband"]
    half = high_throughput_us(law, CARDS, "dispatch", asked, at, none)
    assert high_throughput_us(law, CARDS, "dispatch", _asked(4), at, none) == pytest.approx(2 * half)
    assert high_throughput_us(law, CARDS / 2, "dispatch", asked, at, none) == pytest.approx(2 * half)
    assert high_throughput_us(law, CARDS, "dispatch", asked, at, half) > half


def test_messages_that_the_host_posts_bound_efa_between_two_nodes() -> None:
    """UCCL-EP's README, B200: 53 and 60 GB/s."""
    assert _gb_s(2, 320, "efa") == pytest.approx(53, rel=0.05)
    assert _gb_s(2, 400, "efa", "combine") == pytest.approx(60, rel=0.05)
