"""Which release of its framework a row asks for."""

from __future__ import annotations

import re
from collections.abc import Mapping

from costmodels.serving.frameworks.history import tells_release
from planner.serving.containers import OF_DYNAMO, VERSIONED
from planner.serving.dates import day_stamped
from profiles.values import shown

_REMARK = re.compile(r"\([^()]*\)")


_CONTAINER = re.compile(r"(?:\S*:)?(?:20)?(2[3-9])\.(0[1-9]|1[0-2])(?:[-.]\S*)?", re.ASCII)
"""Tags of NVIDIA's containers: the month of the release in them (``nvcr.io/nvidia/vllm:25.10-py3``)."""

_TELLING = re.compile(r"block|cache|kv|only|weight|w\d+a16", re.ASCII | re.IGNORECASE)
"""In remarks on a precision that make it another one (``INT8 (weight-only)``)."""


def with_release(record: Mapping[str, str], notes: list[str]) -> dict[str, str]:
    """``record`` with the release that stands behind the framework's name (``vLLM v0.11.0``) where no column says it,
    and without remarks there and on precisions (``TensorRT-LLM (PyTorch)``, ``FP8 (E4M3)``) that make them no
    others. Adds to ``notes`` where both say another."""
    remarked = {name: text for name in ("framework", "precision") if (text := record.get(name))}
    out = dict(record) | {name: re.sub(_REMARK, _heard, text).strip() or text for name, text in remarked.items()}
    if told := VERSIONED.fullmatch(out["framework"]):
        out["framework"] = told[1]
        out["version"] = out.get("version") or told[2]
        behind, own = told[2].removeprefix("v"), out["version"].removeprefix("v")
        if behind not in own and not f"{behind}.".startswith(f"{own}."):
            notes.append(f"version: {shown(out['version'])} is read, not {told[2]} behind the framework's name")
    return out


def _heard(remark: re.Match[str]) -> str:
    return remark[0][1:-1] if _TELLING.search(remark[0]) else ""


def release_asked(record: Mapping[str, str]) -> str:
    """The framework with the release that the row asks for: after an @, else by its version, else by its date. A build
    whose name tells no release (``gpt-oss-dev``) is of its date, where there is one."""
    version = re.sub(_REMARK, "", record.get("version", "")).strip()  # 0.11 (vLLM V1)
    engine = re.fullmatch("v[01]", version, re.IGNORECASE)  # vLLM's, of either release
    if engine or ("/" in version and OF_DYNAMO.search(version.casefold())):  # whose tag is Dynamo's release
        version = ""
    if month := _CONTAINER.fullmatch(version):
        version = f"20{month[1]}-{month[2]}"
    name, date = record["framework"], record.get("date")
    asked = version if version and (tells_release(version) or not date) else date and day_stamped(date)
    return f"{name}@{asked}" if asked and "@" not in name else name
