"""The peer's predictions of the same rows: AIConfigurator 0.12.0, run in an environment of its own.

Nothing of it is imported here. Its answers are kept in the user's cache folder, so that a second run is quick.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from costmodels.kernels.on_disk import cache_folder

VERSION = "0.12.0"
WORKER = Path(__file__).with_name("peer_worker.py")

# Names under which the peer has the same architecture without asking the Hub.
NAMES = {
    "meta-llama/Llama-3.1-70B": "meta-llama/Meta-Llama-3.1-70B",
    "meta-llama/Llama-3.1-8B-Instruct": "meta-llama/Meta-Llama-3.1-8B",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "meta-llama/Meta-Llama-3.1-8B",
    "nvidia/Qwen3-32B-NVFP4": "Qwen/Qwen3-32B",
    "nvidia/DeepSeek-R1-NVFP4": "deepseek-ai/DeepSeek-R1",
}


def environment() -> Path:
    """The Python with the peer installed; made on first use (a minute, 500 MB)."""
    folder = cache_folder() / f"aiconfigurator-{VERSION}"
    python = folder / "bin" / "python"
    if not (folder / ".installed").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", f"aiconfigurator=={VERSION}"], check=True)
        (folder / ".installed").touch()
    return python


def questions(table: pd.DataFrame, *, as_listed: bool) -> pd.DataFrame:
    """What the peer is asked: the layout as we read it, or as the file lists it."""
    prefix = "listed_" if as_listed else ""
    ranks = table[f"{prefix}dp"]
    batch = table["listed_batch"] if as_listed else np.maximum(table["concurrency"] // ranks, 1)
    return pd.DataFrame(
        {
            "key": np.arange(len(table)),
            "model": np.where(
                table["model"] == "zhipuai/GLM-5",
                np.where(table["weights"] == "nvfp4", "nvidia/GLM-5-NVFP4", "zai-org/GLM-5-FP8"),
                table["model"].replace(NAMES),
            ),
            "system": table["system"],
            "framework": table["framework"],
            "version": table["version"],
            "gemm": table["listed_gemm"],
            "moe": table["listed_moe"],
            "isl": table["isl"],
            "osl": table["osl"],
            "batch": batch,
            "tp": table[f"{prefix}tp"],
            "pp": table["pp"],
            "dp": ranks,
            "ep": table[f"{prefix}ep"],
            "moe_tp": table[f"{prefix}moe_tp"],
        }
    )


def predict(table: pd.DataFrame, *, as_listed: bool) -> pd.DataFrame:
    """Columns ttft_ms, tpot_ms (NaN where the peer has no answer), how, error; one row per row of ``table``."""
    asked = questions(table, as_listed=as_listed)
    # Its tables of one system and version are read once that way.
    text = asked.sort_values(["system", "framework", "version", "model", "key"]).to_csv(index=False)
    digest = hashlib.sha256(text.encode() + WORKER.read_bytes()).hexdigest()[:16]
    folder = cache_folder() / "peer"
    answers = folder / f"{VERSION}-{digest}.csv"
    if not answers.exists():
        folder.mkdir(parents=True, exist_ok=True)
        source, partial = folder / f"{digest}.in.csv", folder / f"{digest}.partial.csv"
        source.write_text(text, encoding="utf-8")
        subprocess.run([str(environment()), str(WORKER), str(source), str(partial)], check=True)
        partial.replace(answers)
    return pd.read_csv(answers).set_index("key").reindex(asked["key"]).reset_index(drop=True)
