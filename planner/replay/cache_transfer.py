"""The way of a request's cache between the engines of a deployment, by the formulas."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from costmodels.serving.simulator.step_table import End
from costmodels.serving.steady.disaggregated import Joint, decoding, joint, prefill_steps, prefilling
from costmodels.serving.steady.kv_transfer import copies, received_bytes, sent_bytes
from planner.contract.engine import EngineGroup
from planner.replay.planned_engines import PlannedEngine
from planner.serving.engines.disaggregated import fabric_link, scale_up_link
from planner.serving.engines.groups import slower

LIGHT = 0.02
"""Share of what a prefill engine can do at which the rest of a request's way is told: nothing queues there."""


def exposed_transfer_ms(engines: Sequence[PlannedEngine]) -> dict[End, float] | None:
    """What is left of the transfer of a request's cache when its prefill is over, ms, on the slowest pair; None where
    no engine hands over."""
    first, second = ([each for each in engines if each.group.role == role] for role in ("prefill", "decode"))
    pairs = [_joined(sender, receiver) for sender in first for receiver in second]
    if not pairs:
        return None
    slowest = max(pairs, key=lambda pair: float(pair.exposed_us.value[0])).exposed_us
    return {end: float(getattr(slowest, end)[0]) / 1e3 for end in ("value", "low", "high")}


def _joined(sender: PlannedEngine, receiver: PlannedEngine) -> Joint:
    job, isl = sender.job, sender.job.shape.isl
    link = scale_up_link if _share_a_node(sender.group, receiver.group) else fabric_link
    between = slower(link(sender.job), link(receiver.job))
    connector = job.served.framework.kv_connector
    send = sent_bytes(job.served, sender.layouts, isl, copies(receiver.job.served, receiver.layouts, isl))
    receive = received_bytes(receiver.job.served, receiver.layouts, isl)
    transfer = np.maximum(between.seconds_us(send), between.seconds_us(receive))
    budget = np.array([sender.group.limits.max_tokens_per_step])
    held = np.array([sender.group.limits.max_sequences])
    loaded = prefilling(prefill_steps(job.served, job.shape, sender.layouts, budget, held), np.array([LIGHT]))
    decode = decoding(receiver.job.served, receiver.job.shape, receiver.layouts, np.ones(1), connector)
    return joint(job.served, isl, loaded, decode, transfer, between, connector)


def _share_a_node(first: EngineGroup, second: EngineGroup) -> bool:
    """Whether all engines of both groups are on one node."""
    nodes = {(group.pool, rank.node) for group in (first, second) for each in group.replicas for rank in each.ranks}
    return len(nodes) == 1
