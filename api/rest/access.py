"""Who asks, and whether they may: keys, scopes, rates and quotas."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from fastapi.concurrency import run_in_threadpool
from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.requests import Request

from api.rest.problems import RefusedError
from api.rest.recent import Recent
from api.service_settings import ServiceSettings, parsed_rate
from api.storage.keys import RANKS, SEEN_S, Key, Keys
from api.storage.tables import NOBODY
from api.work.planner import Asker, Planner

_MOST_REMEMBERED = 10_000
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="shardwright"'}


@dataclass(frozen=True)
class Allowance:
    """What is left of a rate, for the headers."""

    limit: int
    window_s: int
    remaining: int
    reset_s: int

    def headers(self) -> dict[str, str]:
        return {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(self.reset_s),
            "RateLimit-Policy": f"{self.limit};w={self.window_s}",
        }


class Access:
    """The door: every request but those for ``/livez`` and ``/readyz`` comes through it.

    Keys are looked up again within :data:`SEEN_S`. Rates are counted in memory, so they hold for each instance.
    """

    def __init__(self, planner: Planner, settings: ServiceSettings) -> None:
        self._planner, self._settings = planner, settings
        self._seen: Recent[str, Key | None] = Recent(
            lambda text: Keys(planner.database).check(text), SEEN_S, _MOST_REMEMBERED
        )
        self._rates = MovingWindowRateLimiter(MemoryStorage())

    async def asker(self, request: Request, scope: str) -> Asker:
        """Who asks.

        Raises:
            RefusedError: 401 without a key that holds, 403 without the scope, 429 beyond rate or quota.
        """
        key = await self._key(request)
        request.state.key = key
        owner = NOBODY if key is None else key.id
        if key is not None and not key.may(scope):
            raise RefusedError(
                403,
                "forbidden",
                "Forbidden",
                f"scope: the key may {', '.join(key.scopes)}, and this needs {scope}",
                f"use a key with it: `plan keys create NAME --scopes {scope}`",
            )
        self._count(request, owner, (key and key.rate) or self._settings.rate)
        if scope == "plan" and request.method == "POST":
            await self._count_questions(owner, (key and key.quota) or self._settings.quota)
        return Asker(owner, RANKS.index("normal") if key is None else key.rank)

    async def _key(self, request: Request) -> Key | None:
        given = request.headers.getlist("authorization")
        if not given:
            if self._settings.needs_keys:
                raise _unauthorized("Authorization: a key is needed", "send Authorization: Bearer KEY")
            return None
        scheme, _, text = given[0].partition(" ")
        if len(given) > 1 or scheme.lower() != "bearer" or not text.strip():
            raise _unauthorized("Authorization: is not a Bearer key", "send Authorization: Bearer KEY, once")
        key = await self._seen.find(text.strip()[:200])
        if key is None or not key.holds:
            raise _unauthorized(
                "Authorization: the key is not known, or holds no more", "ask for one: `plan keys create NAME`"
            )
        return key

    def _count(self, request: Request, owner: str, rate: str | None) -> None:
        if rate is None:
            return
        count, seconds = parsed_rate(rate)
        item = RateLimitItemPerSecond(count, seconds)
        allowed = self._rates.hit(item, owner)
        stats = self._rates.get_window_stats(item, owner)
        reset = max(math.ceil(stats.reset_time - time.time()), 0)
        request.state.allowance = Allowance(count, seconds, max(stats.remaining, 0), reset)
        if not allowed:
            raise _too_many(f"rate: more than {rate}", max(reset, 1))

    async def _count_questions(self, owner: str, quota: str | None) -> None:
        if quota is None:
            return
        count, seconds = parsed_rate(quota)
        since = time.time() - seconds
        used, oldest = await run_in_threadpool(self._planner.jobs.asked_since, owner, since)
        if used >= count:
            raise _too_many(f"quota: {quota} are used up", max(math.ceil(oldest + seconds - time.time()), 1))


def _unauthorized(detail: str, hint: str) -> RefusedError:
    return RefusedError(401, "unauthorized", "Unauthorized", detail, hint, headers=_CHALLENGE)


def _too_many(detail: str, seconds: int) -> RefusedError:
    return RefusedError(
        429,
        "too-many-requests",
        "Too many requests",
        detail,
        "try again after the seconds of Retry-After",
        headers={"Retry-After": str(seconds)},
    )
