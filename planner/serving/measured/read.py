"""Which columns of a table of measured runs say something that is understood."""

from __future__ import annotations

from collections.abc import Collection

from costmodels.serving.frameworks.framework import find_framework
from costmodels.serving.frameworks.names import framework_names
from planner.contract.words import DP_ATTENTION, columns_of, folded, words
from planner.serving import asked_rows, campaigns, containers, data_set_words, harness_words, silicon_samples
from planner.serving.measured.columns import holds_measured
from planner.serving.prediction_table import ADDED, OPTIONAL, PREDICTED_SUFFIX, REQUIRED

BESIDE = frozenset(
    (
        *(*harness_words.TOTALS.values(), harness_words.ANSWERED, harness_words.RATIO, harness_words.SWITCH),
        *(*harness_words.LENGTHS, *harness_words.PARALLELISM, *harness_words.ACHIEVED, harness_words.BATCH),
        *(
            *containers.CONTAINERS,
            *harness_words.DTYPES,
            *data_set_words.DATA_SETS,
            *campaigns.WHO,
            *asked_rows.APART,
            silicon_samples.DESCRIBED,
            *DP_ATTENTION,
        ),
    )
)
"""Columns that say something of what was asked and that no prediction is asked by."""


def not_read(columns: Collection[str], by: Collection[str]) -> tuple[str, ...]:
    """Those of ``columns`` that neither say what was asked nor hold what was measured, nor are called for in ``by``."""
    ours = (*REQUIRED, *OPTIONAL)
    frameworks = [find_framework(name) for name in framework_names()]
    engines = (word for each in frameworks for word in (*each.words, *each.switches))
    given = [name for name in columns if name not in ADDED]
    same = (name for names in columns_of(given, ours).values() for name in names)
    read = {*ours, *engines, *same, *ADDED, *by}
    told = words().measured_too
    return tuple(
        name
        for name in columns
        if name not in read
        and not name.endswith(PREDICTED_SUFFIX)
        and folded(name) not in BESIDE
        and folded(name) not in told
        and not holds_measured(name)
    )
