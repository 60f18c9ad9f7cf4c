"""Which prefill engines may hand requests to which decode engines, by the rules of the framework's KV connector.

A fleet is chosen among engines of which every one may hand over to every other, so that a gateway's weights hold for
all. Where a connector ties partners together, such a set is tried for each tie: one tensor-parallel degree, GPUs that
one attention backend runs on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from costmodels.models.architecture import Architecture
from costmodels.serving.frameworks.connector import KvConnector, traits
from costmodels.serving.frameworks.framework import Framework
from costmodels.serving.served_model import ServedModel
from planner.serving.engines.disaggregated import DisaggregatedEngines

_WORDS = {
    "states": "layers that keep a state (linear attention, state spaces)",
    "windows": "layers with a window beside others without",
    "images": "images",
}


def partners(found: Sequence[DisaggregatedEngines]) -> Iterator[list[DisaggregatedEngines]]:
    """Every largest set of engines of the pools ``found`` of which any two may serve a request together."""
    for pools in _of_one_backend(found):
        served = pools[0].job.served
        if not must_have_equal_tp(served.framework.kv_connector, served.model):
            yield pools
            continue
        degrees = {int(tp) for pool in pools for tp in np.intersect1d(pool.layouts.tp, pool.decode.layouts.tp)}
        for tp in sorted(degrees):
            same = [_of_tp(pool, tp) for pool in pools]
            yield [pool for pool in same if len(pool.layouts) and len(pool.decode)]


def cannot_pair(served: ServedModel) -> str | None:
    """Why no engines of ``served`` serve requests together, or None where some may."""
    return not_handed_over(served.framework, served.model)


def not_handed_over(framework: Framework, model: Architecture) -> str | None:
    """Why the framework's connector hands over no caches of ``model``, or None where it does."""
    connector = framework.kv_connector
    for trait in sorted(connector.refuses & traits(model)):
        return f"{connector.name} does not hand over {_WORDS[trait]} in {framework.title}"
    return None


def must_have_equal_tp(connector: KvConnector, model: Architecture) -> bool:
    """Whether a prefill engine and the decode engine that it hands over to must have one tensor-parallel degree."""
    return bool(connector.equal_tp & traits(model))


def pairing_notes(served: ServedModel, backend: str, *, drafting: bool) -> list[str]:
    """What a reader should know of the pairs of a plan whose engines are told to take ``backend``."""
    connector, has = served.framework.kv_connector, traits(served.model)
    tied = sorted(connector.equal_tp & has)
    untried = sorted((connector.not_validated | (connector.not_validated_drafting if drafting else set())) & has)
    notes = []
    if tied:
        notes.append(
            f"{connector.name} hands over {' and '.join(_WORDS[trait] for trait in tied)} between engines of equal tp "
            "alone: only such pairs were considered"
        )
    if backend:
        notes.append(
            f"{connector.name} wants one attention backend on both sides, and engines choose theirs by the GPU: all "
            f"are started with {backend}; times are those of each GPU's own choice"
        )
    for trait in untried:
        how = "with speculative decoding " if trait not in connector.not_validated else ""
        notes.append(f"{connector.name} {how}is not validated for models with {_WORDS[trait]}, its documentation says")
    return notes


def _of_one_backend(found: Sequence[DisaggregatedEngines]) -> Iterator[list[DisaggregatedEngines]]:
    """The largest sets of pools whose GPUs can attend with one backend."""
    seen: set[tuple[int, ...]] = set()
    for first in range(len(found)):
        together = [first]
        for other in range(len(found)):
            if other != first and _share_backend([found[i] for i in (*together, other)]):
                together.append(other)
        if (pools := tuple(sorted(together))) not in seen:
            seen.add(pools)
            yield [found[i] for i in pools]


def _share_backend(pools: Sequence[DisaggregatedEngines]) -> bool:
    served = pools[0].job.served
    gpus = [pool.job.served.gpu for pool in pools]
    return served.framework.kv_connector.shared_backend(served.model, gpus) is not None


def _of_tp(pool: DisaggregatedEngines, tp: int) -> DisaggregatedEngines:
    """The engines of one tensor-parallel degree."""
    prefill = np.flatnonzero(pool.layouts.tp == tp)
    decode = np.flatnonzero(pool.decode.layouts.tp == tp)
    return replace(
        pool,
        layouts=pool.layouts.take(prefill),
        budget=pool.budget[prefill],
        room=pool.room[prefill],
        steps=pool.steps.take(prefill),
        decode=pool.decode.take(decode),
        most=pool.most[decode],
    )
