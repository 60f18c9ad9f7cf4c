"""What a kind of server does and draws: its phases at full clock, from a plan or from measured phases that ship."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from costmodels.estimates import Floats
from costmodels.power.board import idle_loaded_watts
from costmodels.power.response import ClockResponse, clock_response
from planner.power.arrays import Tables
from profiles.errors import Unsupported
from profiles.hardware import Gpu
from profiles.settable import Settable, settable
from profiles.shipped import shipped


@dataclass(frozen=True)
class ServerKind:
    """One kind of server, all its engines together; watts at the highest clock.

    Attributes:
        idle_watts: with models loaded and no work, the server's other parts included.
        prefill_watts, decode_watts: above idle, every engine in that phase (decode: one sequence each);
            ``decode_slope_watts``: of one further sequence in every engine, ``decode_root_watts``: of the root of all
            beyond one's; ``limit_watts``: that its boards hold over a second.
        prompt_s: seconds of an engine to prefill a prompt of n tokens: constant, per token, per token squared.
        token_s, token_slope_s: of a decode step with one sequence, and each further one.
        most_sequences: of all engines.
        apart: whether prefill and decode have GPUs of their own.
        settable: of its GPUs; None: nothing is known, and no clock can be chosen.
        locked_mhz: highest clock that the plan of its engines sets; None: none is set.
        source: in words, where this is from.
        planned: whether engines of a plan run on it, whose sequences are followed; else phases as they were measured.
    """

    name: str
    gpu: str
    gpus: int
    nameplate_watts: float
    idle_watts: float
    prefill_watts: float
    decode_watts: float
    decode_slope_watts: float
    decode_root_watts: float
    limit_watts: float
    prompt_s: tuple[float, float, float]
    token_s: float
    token_slope_s: float
    engines: float
    most_sequences: float
    response: ClockResponse
    settable: Settable | None
    source: str
    apart: bool = False
    prefill_gpus: float = 0.0  # of those that are apart
    locked_mhz: int | None = None
    planned: bool = False

    def prompt_seconds(self, tokens: Floats, squares: Floats | None = None) -> Floats:
        """Seconds of prefill at full clock, [n]; ``squares``: of the tokens, where they are means."""
        constant, linear, square = self.prompt_s
        return np.asarray(constant + linear * tokens + square * (tokens**2 if squares is None else squares))

    def capacity_rps(self, isl: float, osl: float) -> float:
        """Requests a second that its engines answer at full clock, full of sequences."""
        prefill = float(self.prompt_seconds(np.array(isl)))
        return self.engines / (prefill + osl * self.full_token_s)

    @property
    def full_token_s(self) -> float:
        """Seconds of an engine for a token of one sequence, at full clock, with as many as it holds."""
        each = max(self.most_sequences / self.engines, 1.0)
        return (self.token_s + self.token_slope_s * (each - 1)) / each

    @property
    def highest_mhz(self) -> float:
        """That it runs at without caps."""
        if self.locked_mhz is not None:
            return float(self.locked_mhz)
        return float(self.settable.clock_mhz[1]) if self.settable is not None else 1.0

    @property
    def brake_share(self) -> float:
        """Clock of the hardware brake ÷ the highest."""
        if self.settable is None:
            return BRAKE_SHARE
        brake, most = self.settable.brake_mhz, self.settable.clock_mhz[1]
        return min((BRAKE_SHARE * most if brake is None else brake) / self.highest_mhz, 1.0)

    @property
    def full_decode_watts(self) -> float:
        """Of as many sequences as its engines hold, above idle."""
        each = max(self.most_sequences / self.engines, 1.0)
        further = self.decode_slope_watts * (each - 1) + self.decode_root_watts * (each**0.5 - 1)
        return float(self.decode_watts + further)

    @property
    def most_watts(self) -> float:
        prefill = self.prefill_watts + (self.decode_watts if self.apart else 0.0)
        return self.idle_watts + min(max(prefill, self.full_decode_watts), self.limit_watts)

    def drifted(self, share: float) -> ServerKind:
        """All of its watts higher by ``share``."""
        names = (
            "idle_watts",
            "prefill_watts",
            "decode_watts",
            "decode_slope_watts",
            "decode_root_watts",
            "limit_watts",
        )
        return replace(self, **{name: getattr(self, name) * (1 + share) for name in names})


BRAKE_SHARE = 288 / 1410
"""Of the highest clock, where nobody published the brake's: that of a DGX-A100 (POLCA)."""


def own_clock(kind: ServerKind, mhz: int, main: ServerKind | None) -> int:
    """MHz that GPUs of ``kind`` are set to where those of ``main`` are set to ``mhz``: the same share of their highest,
    as far as it can be set; as many MHz where ``main`` is None, at most its highest."""
    if main is not None and kind.settable is not None and kind.highest_mhz != main.highest_mhz:
        mhz = kind.settable.nearest_clock(mhz / main.highest_mhz * kind.highest_mhz)
    return mhz if kind.settable is None else min(mhz, round(kind.highest_mhz))


def clock_shares(kinds: list[ServerKind], clocks_mhz: list[int | None], main: ServerKind | None = None) -> Floats:
    """[kinds, clocks + 1] share of each kind's highest clock; None is the highest, and the last column is the brake.
    ``main`` as of :func:`own_clock`."""
    out = np.ones((len(kinds), len(clocks_mhz) + 1))
    for row, kind in enumerate(kinds):
        for column, mhz in enumerate(clocks_mhz):
            out[row, column] = 1.0 if mhz is None else min(own_clock(kind, mhz, main) / kind.highest_mhz, 1.0)
        out[row, -1] = kind.brake_share
    return out


def tables_of(kinds: list[ServerKind], shares: Floats) -> Tables:
    """What each kind does at each clock; ``shares`` as of :func:`clock_shares`."""
    slow_prefill = np.array([kind.response.prefill.slowdown(shares[i]) for i, kind in enumerate(kinds)])
    slow_decode = np.array([kind.response.decode.slowdown(shares[i]) for i, kind in enumerate(kinds)])
    hot_prefill = np.array([kind.response.prefill.watts(shares[i]) for i, kind in enumerate(kinds)])
    hot_decode = np.array([kind.response.decode.watts(shares[i]) for i, kind in enumerate(kinds)])

    def column(name: str) -> Floats:
        return np.array([getattr(kind, name) for kind in kinds], np.float64)[:, None]

    return Tables(
        prefill_speed=1.0 / slow_prefill,
        token_s=column("token_s") * slow_decode,
        token_slope_s=column("token_slope_s") * slow_decode,
        prefill_watts=column("prefill_watts") * hot_prefill,
        decode_watts=column("decode_watts") * hot_decode,
        decode_slope_watts=column("decode_slope_watts") * hot_decode,
        decode_root_watts=column("decode_root_watts") * hot_decode,
        limit_watts=column("limit_watts")[:, 0],
        ends_exactly=np.array([kind.planned for kind in kinds]),
        shares=np.array([0.0 if kind.apart else 1.0 for kind in kinds]),
    )


@cache
def _phases() -> dict[str, Any]:
    return shipped(Path(__file__).parent / "phases.yaml", dict)


def settable_or_none(gpu: str) -> Settable | None:
    try:
        return settable(gpu)
    except Unsupported:
        return None


def measured_kind(name: str, gpu: Gpu, gpus: int, nameplate_watts: float, other_watts: float) -> ServerKind:
    """A server without a plan: the phases that ship, their watts by the GPU's own TDP and idle."""
    facts = _phases()
    idle = idle_loaded_watts(gpu)
    tdp = gpu.tdp_watts
    said = f"phases of {facts['model']} on {facts['gpu']}"
    if gpu.name != facts["gpu"]:
        said += f", by the TDP and idle watts of {gpu.name}: not measured there"
    return ServerKind(
        name=name,
        gpu=gpu.name,
        gpus=gpus,
        nameplate_watts=nameplate_watts,
        idle_watts=other_watts + gpus * idle,
        prefill_watts=gpus * (facts["prefill_share"] * tdp - idle),
        decode_watts=gpus * (facts["decode_share"] * tdp - idle),
        decode_slope_watts=gpus * facts["decode_share_per_sequence"] * tdp,
        decode_root_watts=0.0,
        limit_watts=np.inf,
        prompt_s=tuple(each / 1e3 for each in facts["prompt_ms"]),
        token_s=facts["token_ms"][0] / 1e3,
        token_slope_s=facts["token_ms"][1] / 1e3,
        engines=1,
        most_sequences=facts["most_sequences"],
        response=clock_response(gpu.name),
        settable=settable_or_none(gpu.name),
        source=said,
    )
