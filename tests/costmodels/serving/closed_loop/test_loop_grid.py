"""The steps that a closed loop is made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from costmodels.operations.layouts import Layouts
from costmodels.serving.closed_loop.load import Load
from costmodels.serving.closed_loop.loop_grid import grid_questions
from costmodels.serving.frameworks.framework import find_framework


@pytest.mark.parametrize(("generations", "chunks"), [(10, 2.0), (1, 2000 / (2048 - 101))])
def test_a_prompt_leaves_the_rest_of_its_last_step_to_the_next_where_all_wait(generations: int, chunks: float) -> None:
    """101 decodes ride along in a step of 2,048 tokens: a prompt of 2,000 takes a step and a rest. Prompts that come
    one by one take two steps; where all are sent at once steps are full."""
    users = np.array([500])
    load = Load.of(users, np.array([2000]), np.array([100]), np.array([2048]), np.array([101]))
    load = replace(load, generations=np.array([generations]))
    asked = grid_questions(Layouts.of([(1, 1, 1, 1, 1)]), np.array([101]), load, find_framework("vllm").scheduler)
    assert asked.chunks[0] == pytest.approx(chunks)
