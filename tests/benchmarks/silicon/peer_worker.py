"""Runs inside the peer's own environment: predicts the rows of one CSV with AIConfigurator, writes another.

Not imported by anything of ours: ``peer.py`` starts it with the Python that has ``aiconfigurator==0.12.0``.
"""

from __future__ import annotations

import csv
import logging
import os
import sys
import warnings
from typing import Any

warnings.simplefilter("ignore")
os.environ.setdefault("AICONFIGURATOR_LOG_LEVEL", "CRITICAL")


def attempts(row: dict[str, str]) -> list[dict[str, object]]:
    """From the row as it is to the most lenient: its version, the default version, then hybrid; with the row's
    precisions, then with the model's own."""
    precisions: list[dict[str, object]] = [{}]
    if row["gemm"]:
        precisions.insert(0, {"gemm_quant_mode": row["gemm"], "moe_quant_mode": row["moe"] or None})
    versions = ([row["version"]] if row["version"] else []) + [None]
    tries: list[dict[str, object]] = []
    for mode in ("SILICON", "HYBRID"):
        for version in versions if mode == "SILICON" else [None]:
            for precision in precisions:
                tries.append({"backend_version": version, "database_mode": mode, **precision})
    return tries


def remembered(load: Any) -> Any:
    """``load`` with its answers kept (its arguments may be lists)."""
    known: dict[str, Any] = {}

    def answer(*arguments: Any, **options: Any) -> Any:
        key = repr((arguments, sorted(options.items())))
        if key not in known:
            known[key] = load(*arguments, **options)
        return known[key]

    return answer


def main(source: str, target: str) -> None:
    logging.disable(logging.CRITICAL)
    from aiconfigurator.cli import api
    from aiconfigurator_core.sdk import perf_database

    # It reads some hundred YAML files to find its newest tables, at every call; the answer does not change.
    for name in ("get_latest_database_version", "get_database_view"):
        setattr(perf_database, name, remembered(getattr(perf_database, name)))
    hopeless: dict[tuple[object, ...], str] = {}
    with open(source, newline="") as stream, open(target, "w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["key", "ttft_ms", "tpot_ms", "how", "error"])
        for row in csv.DictReader(stream):
            last = ""
            for attempt in attempts(row):
                known = (row["model"], row["system"], row["framework"], *attempt.values())
                if known in hopeless:
                    last = hopeless[known]
                    continue
                try:
                    answer = api.cli_estimate(
                        row["model"],
                        row["system"],
                        backend_name=row["framework"],
                        isl=int(row["isl"]),
                        osl=int(row["osl"]),
                        batch_size=int(row["batch"]),
                        tp_size=int(row["tp"]),
                        pp_size=int(row["pp"]),
                        attention_dp_size=int(row["dp"]),
                        moe_tp_size=int(row["moe_tp"]),
                        moe_ep_size=int(row["ep"]),
                        **attempt,
                    )
                except Exception as error:
                    last = f"{type(error).__name__}: {error}"[:200]
                    if "Failed to load perf database" in last or "No database" in last:
                        hopeless[known] = last
                    continue
                how = " ".join(str(value) for value in attempt.values() if value)
                writer.writerow([row["key"], answer.ttft, answer.tpot, how, ""])
                break
            else:
                writer.writerow([row["key"], "", "", "", last])
            out.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
