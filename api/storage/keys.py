"""API keys: who may ask, and what. Of a key only a hash is kept."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select, update

from api.storage.database import Database
from api.storage.tables import keys
from profiles.errors import InputError, UnknownName
from profiles.values import shown

SCOPES = ("read", "plan", "upload", "admin")
"""read documents and jobs; plan: ask, and stop jobs; upload measurements and traces; admin: all of it, and metrics."""

RANKS = ("high", "normal", "low")
"""Classes of keys: jobs of a higher one go first."""

SEEN_S = 0.25
"""How long the service may go by what it last saw of a key. Whoever revokes one is told after this."""

_FORM = re.compile(r"sw_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,128}")


@dataclass(frozen=True)
class Key:
    id: str
    name: str
    scopes: tuple[str, ...]
    rank: int
    rate: str | None
    quota: str | None
    created: float
    expires: float | None
    revoked: float | None

    def may(self, scope: str) -> bool:
        return scope in self.scopes or "admin" in self.scopes

    @property
    def holds(self) -> bool:
        return self.revoked is None and (self.expires is None or time.time() < self.expires)


def parsed_scopes(text: str) -> tuple[str, ...]:
    """``read,plan``. Raises UnknownName."""
    given = [each.strip() for each in text.split(",")]
    for each in given:
        if each not in SCOPES:
            raise UnknownName("--scopes", each, SCOPES, f"choose from {', '.join(SCOPES)}")
    return tuple(scope for scope in SCOPES if scope in given)


class Keys:
    """The keys of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        name: str,
        scopes: Iterable[str],
        *,
        rank: str = "normal",
        rate: str | None = None,
        quota: str | None = None,
        expires: float | None = None,
    ) -> tuple[Key, str]:
        """A new key, and its text, which nobody can tell again.

        Raises:
            InputError: a name that is none, or that another key has.
        """
        if not _NAME.fullmatch(name) or not name.strip():
            raise InputError(f"NAME: {shown(name)} is no name", "give 1 to 128 printable characters")
        id_, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        values = {
            "id": id_,
            "name": name,
            "hash": _hash(secret),
            "scopes": ",".join(scopes),
            "rank": RANKS.index(rank),
            "rate": rate,
            "quota": quota,
            "created": time.time(),
            "expires": expires,
        }
        with self._database.writing() as connection:
            taken = select(keys.c.id).where(keys.c.name == name, keys.c.revoked.is_(None))
            if connection.execute(taken).first() is not None:
                raise InputError(
                    f"NAME: a key {shown(name)} is there already", "choose another name, or `plan keys rotate` it"
                )
            row = connection.execute(keys.insert().values(values).returning(keys)).one()
        return _key(row), f"sw_{id_}_{secret}"

    def check(self, text: str) -> Key | None:
        """The key that ``text`` is; None where there is none, or it holds no more."""
        found = _FORM.fullmatch(text)
        if found is None:
            return None
        with self._database.reading() as connection:
            row = connection.execute(select(keys).where(keys.c.id == found[1])).one_or_none()
        if row is None or not hmac.compare_digest(row.hash, _hash(found[2])):
            return None
        key = _key(row)
        return key if key.holds else None

    def listed(self) -> list[Key]:
        with self._database.reading() as connection:
            return [_key(row) for row in connection.execute(select(keys).order_by(keys.c.created))]

    def revoke(self, name: str) -> Key:
        """Ends a key, by id or name. Raises UnknownName."""
        key = self._named(name)
        with self._database.writing() as connection:
            changed = update(keys).where(keys.c.id == key.id).values(revoked=time.time()).returning(keys)
            return _key(connection.execute(changed).one())

    def rotate(self, name: str) -> tuple[Key, str]:
        """A new text for a key, which still is the same key: the old one holds no more. Raises UnknownName."""
        key = self._named(name)
        secret = secrets.token_urlsafe(32)
        with self._database.writing() as connection:
            connection.execute(update(keys).where(keys.c.id == key.id).values(hash=_hash(secret)))
        return key, f"sw_{key.id}_{secret}"

    def _named(self, name: str) -> Key:
        there = [key for key in self.listed() if key.revoked is None]
        for key in there:
            if name in (key.id, key.name):
                return key
        raise UnknownName("KEY", name, [each for key in there for each in (key.id, key.name)])


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _key(row: Row[Any]) -> Key:
    fields = {name: getattr(row, name) for name in ("id", "name", "rank", "rate", "quota", "created", "expires")}
    return Key(**fields, revoked=row.revoked, scopes=tuple(row.scopes.split(",")))
