"""How public campaigns start the engines that they measure: what their rows leave unsaid follows from their scripts
(``campaigns.yaml``)."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from costmodels.serving.frameworks.history import Release
from planner.contract.words import weights_word
from planner.contract.workload.workload import DATA_SET
from profiles.shipped import shipped
from profiles.values import number

WHO = ("campaign", "source")
"""Columns that say who measured a run, the first that is filled in."""

COLD = "warmup_requests"
"""The column that says how many requests were sent before those that count; 0: the engine was cold."""

ONE_PROMPT, ONE_REQUEST = "one prompt", "one request"
_BESIDE = 200  # tokens that the longest request is taken to be longer than prompt and answer
_NARROW = re.compile(r"(fp|int|mxfp|nvfp)[48]|w[48]a|awq|gptq", re.ASCII)
"""Weights of 8 and 4 bits."""
_ROUND = 64  # tokens that a budget of one prompt is rounded up to, beside as many to spare


@dataclass(frozen=True)
class CampaignEngine:
    """What of a row recipes go by."""

    framework: str
    model: str
    gpu: str
    precision: str
    tp: int
    dp: int
    isl: int
    users: int
    drafts: bool
    release: Release
    osl: int = 0

    @property
    def weights(self) -> str:
        word = weights_word(self.precision) if self.precision else ""
        if word in ("fp4", "w4a4") and "gpt-oss" not in self.model:  # InferenceX's own word
            return "nvfp4"
        return word or ("nvfp4" if re.search("FP4", self.model, re.IGNORECASE) else "")


class CampaignRecipe(BaseModel):
    """What a campaign starts engines of a kind with, and which kind."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    framework: str
    model: str
    gpus: tuple[str, ...] = ()
    weights: str = ""
    tp: int | None = None
    attention_dp: bool = False
    drafts: bool | None = None
    drafted: int = 0
    isl: int | None = None
    isl_from: int = 0
    osl: int | None = None
    below_tp: int | None = None
    from_release: str = ""
    images: dict[dt.date, str] = {}
    script: str
    polling_interval: dict[int, int] = {}
    max_num_batched_tokens: int | Literal["one prompt", "one request"] | None = None
    fewest: int = 0
    since: dt.date | None = None
    gpu_memory_utilization: float | None = None
    max_model_len: int | None = None
    kv_precision: str = ""

    def fits(self, engine: CampaignEngine) -> bool:
        return (
            self.framework == engine.framework
            and re.search(self.model, engine.model) is not None
            and (not self.gpus or engine.gpu in self.gpus)
            and self.weights in ("", engine.weights)
            and self.tp in (None, engine.tp)
            and (engine.dp > 1 or not self.attention_dp)
            and self.drafts in (None, engine.drafts)
            and self.isl in (None, engine.isl)
            and engine.isl >= self.isl_from
            and self.osl in (None, engine.osl)
            and (self.below_tp is None or engine.tp < self.below_tp)
            and not (self.from_release and engine.release.older_than(self.from_release))
        )

    def said(self, engine: CampaignEngine, date: str) -> dict[str, str]:
        """In the columns of a row."""
        out = {}
        run_on = [release for day, release in sorted(self.images.items()) if day.isoformat() <= date]
        if run_on:
            out["version"] = run_on[-1]
        steps = [n for users, n in sorted(self.polling_interval.items()) if users <= engine.users]
        if steps:
            out["polling_interval"] = str(steps[-1])
        if self.max_num_batched_tokens == ONE_PROMPT:
            whole = engine.isl + engine.users // engine.dp * (1 + self.drafted) + _ROUND
            tokens = -(-whole // _ROUND) * _ROUND
            late = self.since is None or date >= self.since.isoformat()
            out["max_num_batched_tokens"] = str(max(tokens, self.fewest if late else 0))
        elif self.max_num_batched_tokens == ONE_REQUEST:
            out["max_num_batched_tokens"] = str(engine.isl + engine.osl + _BESIDE)
        elif self.max_num_batched_tokens is not None:
            out["max_num_batched_tokens"] = str(self.max_num_batched_tokens)
        if self.gpu_memory_utilization is not None:
            out["gpu_memory_utilization"] = f"{self.gpu_memory_utilization:g}"
        if self.max_model_len is not None:
            out["max_model_len"] = str(self.max_model_len)
        if self.kv_precision:
            out["kv_precision"] = self.kv_precision
        if self.drafted:
            out["spec"] = f"mtp{self.drafted}"
        return out


class Sent(BaseModel):
    """How many requests a client sends at each rate, of the models that ``model`` is a pattern of, to prompts of
    ``isl_from`` tokens and more."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests: int
    model: str = ""
    isl_from: int = 0


class Campaign(BaseModel):
    """One that publishes its scripts; ``cold``: whether it measures engines that were just started; ``spread``: of the
    lengths that its clients draw, where lengths are whole multiples (:func:`chosen`) and not means; ``sent_at_rate``:
    the first that fits holds; ``narrow_cache``: precision of the cache beside weights of 8 and 4 bits, where a recipe
    says no other."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    url: str
    read: dt.date
    cold: bool = False
    spread: str = ""
    narrow_cache: str = ""
    sent_at_rate: tuple[Sent, ...] = ()
    recipes: tuple[CampaignRecipe, ...]


@lru_cache(maxsize=1)
def campaigns() -> dict[str, Campaign]:
    """By the word that the name of who measured begins with."""
    path = Path(__file__).parent / "campaigns.yaml"
    return shipped(path, lambda document: {name: Campaign.model_validate(each) for name, each in document.items()})


def narrow_cache(weights: str, cache: str) -> dict[str, str]:
    """The column that says ``cache``, beside ``weights`` of 8 or 4 bits; nothing for others."""
    return {"kv_precision": cache} if cache and _NARROW.match(weights) else {}


def _of(record: Mapping[str, str]) -> Campaign | None:
    who = next((text for name in WHO if (text := record.get(name))), "").casefold()
    return next((each for name, each in campaigns().items() if who.startswith(name)), None)


def as_drawn(record: Mapping[str, str], notes: list[str]) -> dict[str, str]:
    """``record`` whose lengths are drawn as the clients of the campaign that it names draw them, where it does not say
    how; adds to ``notes``."""
    campaign = _of(record)
    said = any(record.get(name) for name in ("spread", "osl_length_biased", "workload", DATA_SET))
    lengths = [number(record.get(name, "")) for name in ("isl", "osl")]
    if campaign is None or not campaign.spread or said or not all(each and chosen(each) for each in lengths):
        return dict(record)
    notes.append(f"spread: not given, lengths are drawn as {campaign.title} does ({campaign.spread} of isl and osl)")
    return {**record, "spread": campaign.spread}


def as_sent(record: Mapping[str, str], notes: list[str]) -> dict[str, str]:
    """``record`` at a rate with as many requests as the campaign that it names sends, where it says none; adds to
    ``notes``."""
    campaign, isl = _of(record), number(record.get("isl", "")) or 0
    if campaign is None or not number(record.get("rate", "")) or record.get("requests"):
        return dict(record)
    fits = (each for each in campaign.sent_at_rate if isl >= each.isl_from)
    told = next((each for each in fits if re.search(each.model, record.get("model", ""), re.IGNORECASE)), None)
    if told is None:
        return dict(record)
    notes.append(f"requests: not given, {told.requests}, as {campaign.title} sends at each rate")
    return {**record, "requests": str(told.requests)}


def chosen(tokens: float) -> bool:
    """Whether somebody chose a length rather than averaged it."""
    return tokens % 8 == 0 or tokens % 10 == 0 or tokens in (1, 2)  # of prompts alone


def as_started(record: Mapping[str, str], engine: CampaignEngine, notes: list[str]) -> dict[str, str]:
    """``record`` with what the campaign that it names (:data:`WHO`) starts such engines with, where it does not say it
    itself; adds to ``notes`` what that is."""
    out, campaign = dict(record), _of(record)
    recipe = next((each for each in campaign.recipes if each.fits(engine)), None) if campaign is not None else None
    if campaign is None:
        return out
    if campaign.cold and not out.get(COLD):
        out[COLD] = "0"
    said = recipe.said(engine, record.get("date", "")) if recipe is not None else {}
    said = {**said, **narrow_cache(engine.weights, campaign.narrow_cache), **said}
    bare = ("spec",) if not any(letter.isdigit() for letter in record.get("spec", "")) else ()
    said = {name: text for name, text in said.items() if name in bare or not record.get(name)}
    if said:
        told = ", ".join(f"{name}={text}" for name, text in said.items())
        by = f" ({recipe.script})" if recipe is not None else ""
        notes.append(f"as {campaign.title} starts it{by}: {told}")
    return out | said
