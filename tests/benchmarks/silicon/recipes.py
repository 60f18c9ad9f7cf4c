"""How the engines behind the rows were started, where the public recipes say so.

InferenceX (github.com/SemiAnalysisAI/InferenceX, Apache-2.0; read 2026-11) keeps one script per model, precision and
GPU under ``benchmarks/``. What follows from a row's framework, model, GPU, version and concurrency, and changes its
times:

* ``--num-prompts 10 × CONC --random-range-ratio 0.8 --request-rate inf --ignore-eos`` everywhere.
* Polling intervals, token budgets, shares of memory: ``planner/serving/campaigns.yaml``, as of any row of InferenceX.
* SGLang, Qwen3.5 in fp8 at tp 4 and ep 1 on B200 and B300 under 0.5.9: plain runs sweep tp 4 with ep 4 and tp 8 alone
  until 13 April 2026 (pull requests 804 and 1027), so these are taken to be of qwen3.5_fp8_{b200,b300}_mtp.sh, which
  drafts 3 tokens a step. They bear that out: with 4 to 32 in flight their TPOT is 0.6 to 0.75 of that at ep 4. Its
  ``--max-running-requests`` of 128 they do not: 256 in flight have their first token in 2.5 s.
* TensorRT-LLM, DeepSeek: recipes ``*-trt-mtp`` (InferenceX pull request 392, January 2026; image 1.2.0rc6.post3, and
  1.1.0rc2.post2 from 2026 on) draft 3 tokens a step, 1 with attention data parallelism. The file does not say so; the
  same image dated 2025 does not draft.
* SGLang, DeepSeek in fp8 on B200: dsr1_fp8_b200_mtp.sh drafts 2 tokens a step; the data base of plain runs that the
  file quotes does not have those rows.
* TensorRT-LLM, Llama 3.1 70B, 1024/1024 below tp 8 (70b_*_trt_slurm.sh): ``batch_wait_timeout_iters`` 20 and
  ``batch_wait_max_tokens_ratio`` 0.9: prompts wait for 20 steps, or until they fill nine tenths of a step.
  ``--max_num_tokens`` is the longest request, 16384 for fp8 on B200.
* TensorRT-LLM with attention data parallelism: ``attention_dp_config`` ``enable_balance`` with ``timeout_iters`` 60
  (DeepSeek) or its default 50 (gpt-oss). The executor's counter of steps without a prompt on every rank runs all the
  time (``_balance_adp_requests`` of py_executor.py), so prompts come in every so many steps, or once every rank has
  one. SGLang's interval counts the same way (scheduler_recv_skipper.py), and prompts restart it.
* Cache in 16 bits (no ``kv-cache-dtype``, or ``auto``): SGLang's DeepSeek on H200 (dsr1_fp8_h200.sh) and GLM-5 there,
  TensorRT-LLM's gpt-oss on H200, vLLM's gpt-oss on H100 and H200. 8 bits elsewhere beside 8- and 4-bit weights, where
  the scripts say so; MiniMax's and Kimi's changed between releases and are taken as 8 bits.

The other rows are NVIDIA's own runs (source files under ``/Users/``), of which no recipe is public. How long their
requests were is *inferred from these measurements themselves*: on the grid of thousands lengths vary; on that of powers
of two SGLang's requests queue as if every wave were a burst, as constant lengths do (a spread of 5 % would make TTFT
0.3 times what was measured), while those of vLLM and TensorRT-LLM wait for three to four prompts whatever they then
answer (124 to 1,000 tokens) and however long they are, and little more among 64 users than among 8: as constant lengths
do whose ends scatter by a few tokens, and of which a step takes one (AIConfigurator's generator starts its benchmarks'
engines so, with one prompt, 1,500 tokens and the running sequences as the budget: ``rule_plugin/benchmark``, 0.12.0).
Four tokens and one prompt were chosen among a few on these rows (docs/accuracy.md). So is which image dated 2026 drafts
(its TPOT is 0.6 of the same image's a month before); the pull request says only that such recipes came then.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

OWN_BUDGET = 8192  # of NVIDIA's runs, whose recipes nobody has published, but for the next
SCATTER = 4  # tokens by which answers of NVIDIA's runs of one length end apart, under vLLM and TensorRT-LLM
CAMPAIGNS = ("InferenceX", "NVIDIA", "NVIDIA Dynamo")
"""Who ran the rows; the last one's lengths are round thousands."""

BLACKWELL = ("B200", "B300", "GB200", "GB300")


def add_recipes(table: pd.DataFrame) -> pd.DataFrame:
    """``table`` with columns campaign (of :data:`CAMPAIGNS`), shortest (length range ratio), token_budget and polled
    (polling interval in steps), 0 where the campaign's scripts say them or nobody does; drafted (tokens drafted a
    step), kv (precision of the cache, None: fp8 beside 8- and 4-bit weights)."""
    own = table["source"].str.contains("/Users/").to_numpy()
    family, gpu, weights = (table[name].to_numpy() for name in ("family", "gpu", "weights"))
    deepseek, gptoss = (family == "DeepSeek-V3/R1") & ~own, (family == "gpt-oss-120b") & ~own
    qwen, glm = ((table["family"] == name).to_numpy() for name in ("Qwen3.5-397B-A17B", "GLM-5"))
    vllm, sglang, trtllm = ((table["framework"] == name).to_numpy() for name in ("vllm", "sglang", "trtllm"))
    llama = (family == "Llama-3.1-70B") & ~own & trtllm
    blackwell = np.isin(gpu, BLACKWELL)
    isl, osl, tp, dp = (table[name].to_numpy() for name in ("isl", "osl", "tp", "dp"))
    version, date = table["version"].fillna("").to_numpy(str), table["date"].fillna("").to_numpy(str)

    drafting = deepseek & trtllm & ((version == "1.2.0rc6.post3") | ((version == "1.1.0rc2.post2") & (date >= "2026")))
    drafted = np.where(drafting, np.where(dp > 1, 1, 3), 0)
    drafted = np.where(_sglang_drafts(table, deepseek & sglang & (gpu == "B200")), 2, drafted)
    early = qwen & sglang & ~own & (weights == "fp8") & blackwell & (version == "0.5.9")
    drafted = np.where(early & (tp == 4) & (table["ep"] == 1).to_numpy(), 3, drafted)

    whole = np.where((gpu == "B200") & (weights == "fp8"), 16384, isl + osl + 200)
    equal = own & (isl % 1000 != 0) & ~sglang
    one = isl + table["concurrency"].to_numpy()
    plain_cache = (
        ((deepseek | glm) & sglang & (gpu == "H200"))
        | (gptoss & trtllm & (gpu == "H200"))
        | (gptoss & vllm & ~blackwell)
    )
    return table.assign(
        campaign=np.select([own & (isl % 1000 == 0), own], CAMPAIGNS[:0:-1], CAMPAIGNS[0]),
        shortest=np.select([equal, own & (isl % 1000 != 0)], [1 - SCATTER / osl, 1.0], 0.8),
        token_budget=np.select([equal, own, llama], [one, OWN_BUDGET, whole], 0),
        polled=np.where(llama & (isl == 1024) & (osl == 1024) & (tp < 8), 20, 0),
        drafted=drafted,
        kv=np.where(plain_cache, "bf16", None),
    )


def _sglang_drafts(table: pd.DataFrame, candidates: np.ndarray) -> np.ndarray:
    """Which rows of SGLang 0.5.9 and fp8 are of the recipe that drafts: those that the data base of plain runs, which
    the file quotes beside its own tables, does not have."""
    known = table["source"].str.startswith("db-dump").to_numpy()
    same = list(zip(table["ttft_ms"], table["tpot_ms"], strict=True))
    plain = {pair for pair, listed in zip(same, known, strict=True) if listed}
    here = candidates & (table["version"] == "0.5.9").to_numpy() & (table["weights"] == "fp8").to_numpy()
    return here & (table["tp"] == 8).to_numpy() & np.array([pair not in plain for pair in same])
