"""The few steps that a closed loop is made of, as batches to ask a served model's step for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from costmodels.estimates import Floats, Ints
from costmodels.operations.layouts import Layouts
from costmodels.operations.questions import Batch
from costmodels.serving.closed_loop.load import Load
from costmodels.serving.closed_loop.protocol import StepGrid
from costmodels.serving.frameworks.policies import Policy

_DECODE_SHARES = (0.0, 0.25, 0.5, 1.0)
DECODE_LEVELS = len(_DECODE_SHARES)
"""The first levels of a grid, from one sequence to all that run; the others hold prompts, from one on."""


@dataclass(frozen=True)
class GridQuestions:
    """``batch`` holds ``levels`` batches per configuration, one after another: decode levels first.

    Attributes:
        layouts: of each batch; [n × levels].
        index: the configuration that each batch belongs to; [n × levels].
        decode_batch, prompts, stages: as in :class:`StepGrid`.
        chunks: steps per prompt, with a fraction where the rest of the last is another's; [n].
    """

    layouts: Layouts
    batch: Batch
    index: Ints
    decode_batch: Floats
    prompts: Floats
    chunks: Floats
    stages: Ints
    mixed: np.ndarray

    def grid(self, latency_us: Floats, stage_us: Floats, tokens_per_step: Floats | float = 1.0) -> StepGrid:
        """The grid from the times of the batches asked for, shape [n × levels].

        Args:
            latency_us: through all pipeline stages.
            stage_us: of the slowest stage.
            tokens_per_step: of each sequence in a decode step, shape [n]; more than one with drafted tokens.
        """
        n = len(self.chunks)
        latency, stage = (times.reshape(-1, n).T for times in (latency_us, stage_us))
        levels = self.decode_batch.shape[1]
        # A sequence has its next token after all stages, or after the slowest has served the other slots' batches.
        slots = np.minimum(self.decode_batch, self.stages[:, None])
        decode = np.maximum(latency[:, :levels], slots * stage[:, :levels])
        one = self.stages[:, None] == 1
        prefill = np.where(one, latency[:, levels:], stage[:, levels:])
        return StepGrid(
            self.decode_batch,
            decode / np.broadcast_to(tokens_per_step, n)[:, None],
            self.prompts,
            prefill * self.chunks[:, None],
            np.maximum(latency[:, levels:] - prefill, 0.0),
            self.chunks,
            self.stages,
            self.mixed,
        )


def grid_questions(
    layouts: Layouts,
    concurrency: Ints,
    load: Load,
    policy: Policy,
) -> GridQuestions:
    """What to ask about each configuration.

    Args:
        concurrency: sequences that run at once in the whole engine, shape [n].
        load: drafts as many tokens a step in all configurations: steps verify them.
        policy: whether decodes ride along with prompts, and whether a prompt may be cut to fill a step.
    """
    n, mixed = len(layouts), policy.mixed
    dp = layouts.dp
    stages = layouts.pp  # a rank's sequences spread over as many micro-batches
    each = np.maximum(concurrency / dp, 1.0)
    decode_batch = np.column_stack([np.maximum(np.rint(1 + share * (each - 1)), 1) for share in _DECODE_SHARES])
    micro_batch = np.maximum(np.rint(decode_batch / stages[:, None]), 1)
    prompt = np.maximum(np.rint(load.mean_isl), 1)
    riding = np.where(mixed, np.maximum(np.rint(each / stages), 1), 0)
    beside = load.drafted * np.ceil(each / stages)  # drafted tokens of those that run, which share the budget
    room = np.maximum(load.token_budget - beside - riding, 1)
    new = np.maximum(np.rint(prompt * (1 - load.cached_share)), 1)  # the last token is always computed
    chunks = np.ceil(new / room)
    if policy.chunked:  # what a prompt leaves of its last step goes to the next, where all wait from the start
        queued = (load.generations == 1) & (load.concurrency > 1)
        chunks = np.where(queued, np.maximum(new / room, 1), chunks)
    chunk = np.maximum(np.rint(new / chunks), 1)
    fit = room / new if policy.chunked else np.floor(room / new)
    per_rank = np.clip(fit, 1, np.ceil(each))
    most = np.minimum(per_rank * dp, np.maximum(concurrency, 1))
    middle = np.where(dp > 1, np.minimum(dp, most), np.maximum(np.floor(np.sqrt(most)), 1))
    prompts = np.column_stack([np.ones(n), middle, most])

    nobody = np.zeros(n)
    context = np.rint(prompt + np.where(np.isnan(load.outputs), load.mean_osl, load.outputs) / 2)
    parts = [
        (nobody, nobody, nobody, micro_batch[:, k], context, micro_batch[:, k]) for k in range(micro_batch.shape[1])
    ]
    for k in range(prompts.shape[1]):
        count = prompts[:, k]
        of_rank = np.ceil(count / dp)
        share = np.where(of_rank > 1, count / dp / of_rank, 1.0)  # of each: the last is cut where the step ends
        decodes = np.maximum(riding - of_rank, 0)
        parts.append(
            (
                of_rank,
                np.rint(chunk * share),
                prompt - new + np.where(chunks > 1, np.rint((new - chunk) / 2), 0),
                decodes,
                context,
                count * chunk / dp + decodes,
            )
        )
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    prefills, sizes, prefix, decodes, contexts = (column.astype(np.int64) for column in columns[:5])
    (drafted,) = set(load.drafted.tolist())
    batch = Batch(prefills, sizes, prefix, decodes, contexts, columns[5]).verifying(1 + drafted)
    index = np.tile(np.arange(n), len(parts))
    return GridQuestions(
        layouts.take(index),
        batch,
        index,
        decode_batch,
        prompts,
        chunks,
        stages,
        np.full(n, mixed),
    )
