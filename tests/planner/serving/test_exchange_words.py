"""Every word that engines have for an exchange is priced, priced as its kin and told so, or refused by name."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from costmodels.operations.exchanges import exchange_kinds
from costmodels.serving.frameworks.framework import find_framework
from planner.contract.words import exchange_word
from planner.serving.prediction_table import predict

WORDS = {
    # --all2all-backend of vLLM 0.33.0, --moe-a2a-backend of SGLang 0.5.23 (PyPI's wheels, read 2026-11-27)
    "vllm": (
        "allgather_reducescatter deepep_high_throughput deepep_low_latency deepep_v2 flashinfer_all2allv "
        "flashinfer_nvlink_one_sided flashinfer_nvlink_two_sided moonep mori_high_throughput mori_low_latency naive "
        "nixl_ep pplx"
    ),
    "sglang": (
        "ascend_fuseep ascend_tp deepep deepep_v2 flashinfer flashinfer_megamoe megamoe mooncake mori nixl none pplx"
    ),
    # TRTLLM_FORCE_COMM_METHOD, and the names of its classes (communication_factory.py, read 2026-11)
    "trtllm": (
        "allgather deepep deepeplowlatency mnnvl nvlink_one_sided nvlink_two_sided nvlinkonesided nvlinktwosided "
        "wideep"  # moe_config.backend
    ),
}
ENGINE = {
    "model": "Qwen/Qwen3-235B-A22B-FP8", "gpu": "H100", "tp": "1", "dp": "16", "ep": "16", "role": "decode",
    "isl": "2000", "osl": "200", "concurrency": "512",
}  # fmt: skip


def asked(*changes: dict[str, str]) -> pd.DataFrame:
    return predict(pd.DataFrame([ENGINE | change for change in changes]).fillna(""))


@pytest.mark.parametrize("framework", sorted(WORDS))
def test_every_word_of_an_engine_is_known(framework: str) -> None:
    can = find_framework(framework).parallelism
    for word in WORDS[framework].split():
        assert exchange_word(word) == "none" or can.exchanges_called(word) or word in can.unpriced, word


def test_what_is_not_priced_is_refused_by_name_and_why() -> None:
    moon, ascend = asked({"framework": "vllm", "exchange": "MoonEP"}, {"framework": "sglang", "exchange": "ascend_tp"})[
        "error"
    ]
    assert "exchange: 'moonep': is not priced: it fetches experts' weights while it runs" in moon
    assert "exchange: 'ascend_tp': is not priced: it runs on Huawei's NPUs alone; give one of none, " in ascend
    (wide,) = asked({"framework": "trtllm", "exchange": "WIDEEP"})["error"]
    assert "exchange: 'wideep': is not priced: it is a backend of experts (moe_config)" in wide


def test_an_earlier_name_says_the_same() -> None:
    assert find_framework("vllm").parallelism.exchanges_called("flashinfer_all2allv") == ["nvlink_two_sided"]


def test_kin_are_told_and_less_sure() -> None:
    words = ["low_latency", "nixl", "pplx", "mooncake"]
    answer = asked(*({"framework": "sglang", "exchange": word} for word in words))
    assert (answer["error"] == "").all()
    wide = np.log(answer["tpot_ms_high"].astype(float) / answer["tpot_ms_low"].astype(float))
    spread = {kind.name: kind.spread for kind in exchange_kinds()}
    order = [spread[word] for word in words]
    assert list(np.argsort(wide, kind="stable")) == list(np.argsort(order, kind="stable"))
    assert wide[1] > 1.1 * wide[0]
    assert "is priced as" not in answer["note"][0]
    for word, note in zip(words[1:], answer["note"][1:], strict=True):
        assert f"exchange {word} is priced as low_latency, less surely: " in note


def test_steps_that_nothing_hides_hide_nothing() -> None:
    parts = asked(*({"framework": "sglang", "concurrency": str(users)} for users in (112, 480, 1600)))[
        "step_ms_by_part"
    ]
    assert not parts.str.contains("hidden").any()


def test_words_that_would_do_are_those_of_this_gpu_and_release() -> None:
    old, new = asked({"framework": "vllm@0.19.1", "exchange": "fast"}, {"framework": "vllm", "exchange": "fast"})[
        "error"
    ]
    assert "mori" not in old + new
    assert "pplx" not in new
    assert "deepep_v2" in new
    assert "deepep_v2" not in old


def test_copies_that_nobody_balances_are_not_said_to_be_needless_where_experts_do_not_divide() -> None:
    ways = {"framework": "vllm", "eplb": "off"}
    whole, not_whole = asked(
        {**ways, "redundant": "16"}, {**ways, "dp": "40", "ep": "40", "redundant": "32", "concurrency": "640"}
    )["error"]
    assert whole.endswith("give eplb=static or dynamic, or redundant=0")
    assert not_whole.endswith("give eplb=static or dynamic")
