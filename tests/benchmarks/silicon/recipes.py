"""How the engines behind the rows were started, where the public recipes say so.

InferenceX (github.com/SemiAnalysisAI/InferenceX, Apache-2.0; read 2026-11) keeps one script per model, precision and
GPU under ``benchmarks/``. What follows from a row's framework, model, GPU, version and concurrency, and changes its
times:

* ``--num-prompts 10 × CONC --random-range-ratio 0.8 --request-rate inf --ignore-eos`` everywhere.
* SGLang, DeepSeek on Blackwell (dsr1_fp8_b200.sh, dsr1_fp4_b200.sh): ``--scheduler-recv-interval`` 30 from 16 requests
  on, else 10: the scheduler looks for new requests only every so many steps. On H200 it is not set.
* SGLang: ``--chunked-prefill-size`` 16384 (fp4), 32768 (fp8; 8192 at tp 4).
* TensorRT-LLM, DeepSeek: ``--max_num_tokens`` = prompt + batch + 64, rounded up to 64 (one prompt a step), and at least
  8192 from 1.2.0rc6 on; gpt-oss: 20000.
* TensorRT-LLM, DeepSeek: recipes ``*-trt-mtp`` (InferenceX pull request 392, January 2026; image 1.2.0rc6.post3, and
  1.1.0rc2.post2 from 2026 on) draft 3 tokens a step, 1 with attention data parallelism. The file does not say so; the
  same image dated 2025 does not draft.

* vLLM, MiniMax and Kimi: ``--gpu-memory-utilization 0.95``.

The other rows are NVIDIA's own runs (source files under ``/Users/``), of which no recipe is public. That their grid of
powers of two was sent with constant lengths, and their grid of thousands with lengths that vary, is *inferred from
these measurements themselves*: requests of the former queue as if every wave were a burst. So is which image dated 2026
drafts (its TPOT is 0.6 of the same image's a month before); the pull request says only that such recipes came then.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

DEFAULT_BUDGET = 8192
BLACKWELL = ("B200", "B300", "GB200", "GB300")


def add_recipes(table: pd.DataFrame) -> pd.DataFrame:
    """``table`` with columns harness (``InferenceX`` or ``NVIDIA``), shortest (length range ratio), token_budget,
    poll_steps (0: every step), drafted (tokens drafted a step)."""
    own = table["source"].str.contains("/Users/").to_numpy()
    deepseek = (table["family"] == "DeepSeek-V3/R1").to_numpy() & ~own
    sglang, trtllm = ((table["framework"] == name).to_numpy() for name in ("sglang", "trtllm"))
    blackwell = table["gpu"].isin(BLACKWELL).to_numpy()
    concurrency, isl = table["concurrency"].to_numpy(), table["isl"].to_numpy()
    version, date = table["version"].fillna("").to_numpy(), table["date"].fillna("").to_numpy()

    drafting = deepseek & trtllm & ((version == "1.2.0rc6.post3") | ((version == "1.1.0rc2.post2") & (date >= "2026")))
    drafted = np.where(drafting, np.where(table["dp"] > 1, 1, 3), 0)

    budget = np.full(len(table), DEFAULT_BUDGET)
    large = np.where(table["weights"] == "nvfp4", 16384, np.where(table["tp"] >= 8, 32768, 8192))
    budget = np.where(sglang & ~own, large, budget)
    batch = concurrency // table["dp"].to_numpy()
    one_prompt = (isl + batch * (1 + drafted) + 64 + 63) // 64 * 64
    late = np.char.startswith(version.astype(str), "1.2.0rc6.post2")
    budget = np.where(deepseek & trtllm, np.where(late, np.maximum(one_prompt, 8192), one_prompt), budget)
    gptoss = (table["family"] == "gpt-oss-120b").to_numpy() & trtllm & ~own
    budget = np.where(gptoss, 20_000, budget)

    often = np.where((concurrency >= 16) & (large > 8192), 30, 10)
    return table.assign(
        harness=np.where(own, "NVIDIA", "InferenceX"),
        shortest=np.where(own & (isl % 1000 != 0), 1.0, 0.8),
        token_budget=budget,
        poll_steps=np.where(deepseek & sglang & blackwell, often, 0),
        drafted=drafted,
        memory_fraction=np.where(
            (table["framework"] == "vllm").to_numpy() & ~own & table["model"].str.contains("MiniMax|Kimi"), 0.95, np.nan
        ),
    )
