"""``plan keys`` and ``plan db``, and what ``plan serve`` refuses before it listens."""

from __future__ import annotations

import json
import socket
import sqlite3
from pathlib import Path

import pytest
from command import Runner

from api.rest.configuration import from_settings
from api.service_settings import ServiceSettings
from api.storage.database import Database
from api.storage.keys import Keys
from profiles.errors import InputError


@pytest.fixture(autouse=True)
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    made = f"sqlite:///{tmp_path / 'service.db'}"
    monkeypatch.setenv("SHARDWRIGHT_DATABASE_URL", made)
    monkeypatch.chdir(tmp_path)
    return made


def test_a_key_is_shown_once_and_kept_as_a_hash(run: Runner, tmp_path: Path) -> None:
    made = json.loads(run("keys", "create", "ci", "--scopes", "read,plan", "--json").out)
    assert set(made) == {"id", "key"}
    listed = json.loads(run("keys", "list", "--json").out)["keys"]
    assert [(key["id"], key["scopes"], key["state"]) for key in listed] == [(made["id"], ["read", "plan"], "holds")]
    secret = made["key"].rpartition("_")[2]
    content = b"".join(file.read_bytes() for file in tmp_path.glob("service.db*"))
    assert secret.encode() not in content
    assert made["key"] not in run("keys", "list").out
    rotated = json.loads(run("keys", "rotate", "ci", "--json").out)
    assert (rotated["id"], rotated["key"] != made["key"]) == (made["id"], True)
    assert run("keys", "revoke", made["id"]).code == 0
    assert json.loads(run("keys", "list", "--json").out)["keys"][0]["state"] == "revoked"
    assert run("keys", "create", "ci").code == 0, "the name is free again"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["create", "ci", "--scopes", "read,write"], "--scopes: 'write' is not known"),
        (["create", "ci", "--rate", "10"], "--rate: '10' is not a rate"),
        (["create", "ci", "--priority", "urgent"], "--priority: 'urgent' is not known"),
        (["create", "ci", "--expires-days", "0"], "--expires-days"),
        (["create", " "], "NAME"),
        (["revoke", "nobody"], "KEY: 'nobody' is not known"),
        (["list", "--database-url", "mysql://x/y"], "database_url: 'mysql'"),
        (
            ["list", "--database-url", "postgresql://u:hidden@127.0.0.1:1/x"],
            "database postgresql://u:***@127.0.0.1:1/x",
        ),
    ],
)
def test_what_is_wrong_takes_two_lines(run: Runner, arguments: list[str], said: str) -> None:
    ran = run("keys", *arguments)
    assert ran.code == 2
    assert said in ran.err
    assert "hidden" not in ran.err
    assert len(ran.err.splitlines()) == 2


def test_a_database_is_copied_while_it_is_used(run: Runner, tmp_path: Path, url: str) -> None:
    run("keys", "create", "ci")
    assert run("db", "backup", "copy.db").code == 0
    assert [key.name for key in Keys(Database(f"sqlite:///{tmp_path / 'copy.db'}")).listed()] == ["ci"]
    assert "is there already" in run("db", "backup", "copy.db").err
    assert run("db", "upgrade").code == 0
    assert run("db", "prune").code == 2
    assert run("db", "prune", "--keep-days", "1").out == "forgot 0 documents and 0 jobs\n"


def test_a_database_of_another_version_is_refused(run: Runner, tmp_path: Path) -> None:
    run("db", "upgrade")
    with sqlite3.connect(tmp_path / "service.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    for command in (["serve", "--port", "1"], ["keys", "list"], ["db", "upgrade"]):
        assert run(*command).code == 2
    assert "newer than this program's" in run("keys", "list").err


def test_serve_refuses_what_cannot_be(run: Runner) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "cannot be had" in run("serve", "--port", str(taken.getsockname()[1])).err
    for option, value, said in (
        ("--host", "nowhere.invalid", "no address"),
        ("--port", "70000", "port"),
        ("--rate", "fast", "'fast' is not a rate"),
        ("--tls-cert", "x", "tls_key is missing"),
        ("--workers", "0", "workers"),
    ):
        ran = run("serve", option, value)
        assert (ran.code, said in ran.err) == (2, True), ran.err


def test_settings_say_where_they_are_from_and_no_secret(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDWRIGHT_DATABASE_URL", "postgresql://u:hidden@h/d")
    monkeypatch.setenv("SHARDWRIGHT_QUEUE_LIMIT", "7")
    Path("shardwright.toml").write_text("workers = 3\n", encoding="utf-8")
    ran = run("serve", "--print-config", "--json", "--port", "9000")
    rows = {each["name"]: (each["value"], each["source"]) for each in json.loads(ran.out)["settings"]}
    assert rows["queue_limit"] == (7, "$SHARDWRIGHT_QUEUE_LIMIT")
    assert rows["workers"] == (3, "shardwright.toml")
    assert rows["port"] == (9000, "--port")
    assert rows["host"] == ("127.0.0.1", "default")
    assert rows["database_url"][0] == "postgresql://u:***@h/d"
    for shown in (ran.out, run("serve", "--print-config").out, run("--print-config").out):
        assert "hidden" not in shown


def test_a_bad_setting_is_named_with_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDWRIGHT_QUEUE_LIMIT", "many")
    with pytest.raises(InputError, match=r"\$SHARDWRIGHT_QUEUE_LIMIT: queue_limit: 'many'"):
        from_settings({})


def test_the_databases_address_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("sqlite:///x.db\n", encoding="utf-8")
    assert ServiceSettings(database_url_file=str(tmp_path / "url")).database_address == "sqlite:///x.db"
    with pytest.raises(InputError, match="database_url_file"):
        _ = ServiceSettings(database_url_file=str(tmp_path / "nothing")).database_address
