"""``plan profile``: what is printed, what is refused, and that an import is whole or does not happen."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pandas as pd
import pytest
from click.testing import Result
from typer.testing import CliRunner

from api.cli.commands import profile
from profiles.errors import DataError, InputError, ShardwrightError, UnknownName
from profiles.importers import importers
from profiles.manifest import MANIFEST
from profiles.measurements import OPERATIONS, columns_of
from profiles.store import ProfileStore, shipped_pack

WIDTH = 100
VIDUR = ("--option", "gpu=A100", "--option", "date=2024-05-01", "--option", "measured_by=microsoft/vidur")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(profile.app, [str(argument) for argument in arguments])


def output(*arguments: object) -> str:
    result = run(*arguments)
    if result.exception is not None:
        raise result.exception
    assert result.exit_code == 0
    return str(result.stdout)


def refusal(*arguments: object) -> ShardwrightError:
    """The main program turns it into two lines and an exit code."""
    result = run(*arguments)
    assert isinstance(result.exception, ShardwrightError), result.output
    assert result.exception.hint
    return result.exception


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """Two GEMM rows of our own: one that the shipped pack answers otherwise, one on our own GPU."""
    known = shipped_pack().query("gemm", gpu="A100-SXM-80GB", framework="vllm").head(1)
    ours = known.assign(latency_us=777.0, source="us")
    store = ProfileStore.create(tmp_path / "ours", name="ours", version="3", attribution="us")
    store.add("gemm", pd.concat([ours, ours.assign(gpu="Our Lab GPU")]))
    return store.path


@pytest.fixture
def vidur(tmp_path: Path) -> Path:
    table = pd.DataFrame(
        {
            "time_stats.all_reduce.median": [0.02, 0.03],
            "num_workers": 2,
            "size": [1024, 2048],
            "collective": "all_reduce",
            "devices_per_node": 2,
        }
    )
    folder = tmp_path / "vidur"
    folder.mkdir()
    table.to_csv(folder / "all_reduce.csv")
    return folder


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("TERM", "dumb")


def assert_fits(text: str) -> None:
    assert max(map(len, text.splitlines())) <= WIDTH


# -------------------------------------------------------------------------------------- list


def test_list_counts_the_shipped_pack() -> None:
    text = output("list")
    assert_fits(text)
    for operation in shipped_pack().operations():
        assert f" {operation} " in text
    row = next(line for line in text.splitlines() if "gemm " in line and "H200" in line and "sglang" in line)
    assert "bf16 18,354, fp8 18,354" in row


def test_list_narrows() -> None:
    text = output("list", "--op", "gemm", "--gpu", "h200", "--framework", "sglang")
    assert "B200" not in text
    assert "vllm" not in text
    assert text.count("gemm") == 1


def test_list_as_json_adds_up_and_names_the_store(measured: Path) -> None:
    shipped, ours = json.loads(output("list", "--profiles", measured, "--json"))
    pack = shipped_pack()
    assert shipped["content_hash"] == pack.manifest.content_hash
    assert shipped["rows"] == pack.summary().to_dict("records")
    assert (ours["name"], ours["version"], ours["path"]) == ("ours", "3", str(measured))
    assert [(row["gpu"], row["rows"]) for row in ours["rows"]] == [("A100-SXM-80GB", 1), ("Our Lab GPU", 1)]


def test_list_shows_each_store(measured: Path) -> None:
    text = output("list", "--op", "gemm", "--profiles", measured)
    assert "silicon 1" in text
    assert "ours 3: 2 rows" in text
    assert "Our Lab GPU" in text


def test_an_empty_store_can_be_listed(tmp_path: Path) -> None:
    ProfileStore.create(tmp_path, name="empty", version="1", attribution="")
    assert "empty 1: 0 rows" in output("list", "--profiles", tmp_path)


@pytest.mark.parametrize("command", [["list", "--op", "gemm"], ["show", "gemm"]])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "H2000"], "--gpu: 'H2000' is not known"),
        (["--framework", "vlm"], "--framework of gemm: 'vlm' is not known"),
        (["--framework", "nccl"], "--framework of gemm: 'nccl' is not known"),
        (["--gpu", "T4"], "no timings of operation gemm, gpu T4"),
    ],
)
def test_what_is_not_there_is_refused(command: list[str], arguments: list[str], message: str) -> None:
    error = refusal(*command, *arguments)
    assert isinstance(error, InputError)
    assert message in error.message


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    for command in (["list"], ["show", "gemm"]):
        error = refusal(*command, "--profiles", tmp_path)
        assert isinstance(error, DataError)
        assert str(tmp_path) in error.message


# -------------------------------------------------------------------------------------- show


@pytest.mark.parametrize("operation", shipped_pack().operations())
def test_show_explains_every_column_and_fits(operation: str) -> None:
    text = output("show", operation, "--gpu", "H200", "--limit", 300)
    assert_fits(text)
    for column in columns_of(OPERATIONS[operation]):
        assert column.name in text
        assert column.unit in text
    rows = len(shipped_pack().query(operation, gpu="H200"))
    assert ("300 of " in text) == (rows > 300)
    assert "NVIDIA, aiconfigurator-core 0.12.0" in text


def test_show_prints_brackets_as_they_are() -> None:
    assert "[m, k] × [k, n]" in output("show", "gemm", "--gpu", "A100", "--framework", "vllm")


def test_show_limits_and_narrows() -> None:
    document = json.loads(output("show", "gemm", "--gpu", "A100", "--framework", "vllm", "--limit", 3, "--json"))
    assert len(document["rows"]) == 3
    assert document["rows_found"] == len(shipped_pack().query("gemm", gpu="A100-SXM-80GB", framework="vllm"))
    assert {(row["gpu"], row["framework"]) for row in document["rows"]} == {("A100-SXM-80GB", "vllm")}
    assert document["rows"][0]["power_watts"] is None
    units = {column["name"]: column["unit"] for column in document["columns"]}
    assert units["latency_us"] == "µs"
    assert units["n"] == "elements"


def test_show_as_csv_has_every_column_and_row() -> None:
    rows = pd.read_csv(io.StringIO(output("show", "collective", "--gpu", "H200", "--limit", 0, "--csv")))
    expected = shipped_pack().query("collective", gpu="H200")
    assert list(rows.columns) == list(expected.columns)
    assert rows["latency_us"].tolist() == expected["latency_us"].tolist()
    assert rows["message_bytes"].tolist() == expected["message_bytes"].tolist()


def test_show_puts_our_own_rows_in_place_of_the_packs(measured: Path) -> None:
    def found(*more: object) -> dict[str, object]:
        document: dict[str, object] = json.loads(
            output("show", "gemm", "--gpu", "A100", "--framework", "vllm", "--limit", 0, "--json", *more)
        )
        return document

    alone, both = found(), found("--profiles", measured)
    assert both["rows_found"] == alone["rows_found"]
    assert sum(row["latency_us"] == 777.0 for row in both["rows"]) == 1  # type: ignore[attr-defined]
    assert "Our Lab GPU" in output("show", "gemm", "--gpu", "Our Lab GPU", "--profiles", measured)


def test_show_refuses_what_it_cannot_do() -> None:
    error = refusal("show", "gem")
    assert isinstance(error, UnknownName)
    assert "gemm" in error.hint
    assert "--csv" in refusal("show", "gemm", "--json", "--csv").message


# -------------------------------------------------------------------------------------- import


def test_import_makes_the_store_and_then_adds(vidur: Path, tmp_path: Path) -> None:
    into = tmp_path / "new" / "store"
    command = ("import", "vidur", "--from", vidur, "--into", into, *VIDUR)
    result = run(*command)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1].split() == ["collective", "2", "2", "2"]
    assert_fits(result.stdout)
    assert "read collective: 2 rows of A100-SXM-80GB" in result.stderr
    assert "read collective" not in result.stdout

    again = json.loads(output(*command, "--json"))
    assert again == {
        "store": str(into),
        "operations": [{"operation": "collective", "read": 2, "new": 0, "total": 2}],
    }
    store = ProfileStore(into)
    store.verify()
    assert store.query("collective")["latency_us"].tolist() == pytest.approx([20.0, 30.0])
    assert store.query("collective")["source"].unique().tolist() == ["microsoft/vidur"]
    assert "ours" not in output("list", "--profiles", into)


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (["gpus=A100"], "option: 'gpus' is not known", "measured_by"),
        (["gpu"], "'gpu' is not KEY=VALUE", "--option gpu=H200"),
        (["gpu="], "'gpu=' is not KEY=VALUE", "--option gpu=H200"),
        (["gpu=A100", "gpu=H200"], "gpu is given twice", "commas"),
        (["gpu=A100"], "option date is missing", "provenance"),
    ],
)
def test_import_refuses_options(vidur: Path, tmp_path: Path, options: list[str], message: str, hint: str) -> None:
    into = tmp_path / "store"
    pairs = [argument for option in options for argument in ("--option", option)]
    error = refusal("import", "vidur", "--from", vidur, "--into", into, *pairs)
    assert message in error.message
    assert hint in error.hint
    assert not into.exists()


def test_import_refuses_an_unknown_format(tmp_path: Path) -> None:
    error = refusal("import", "vidor", "--into", tmp_path / "store")
    assert "format: 'vidor' is not known" in error.message
    assert "vidur" in error.hint


def test_import_writes_nothing_when_a_later_table_is_refused(vidur: Path, tmp_path: Path) -> None:
    into = tmp_path / "store"
    (vidur / "mlp.csv").write_text("a,b\n1,2\n")
    error = refusal("import", "vidur", "--from", vidur, "--into", into, *VIDUR)
    assert "mlp.csv" in error.message
    assert not into.exists()

    (vidur / "mlp.csv").rename(vidur / "mlp.txt")
    output("import", "vidur", "--from", vidur, "--into", into, *VIDUR)
    before = {file.name: file.read_bytes() for file in into.iterdir()}
    (vidur / "all_reduce.csv").write_text("time_stats.all_reduce.median\n1\n")
    refusal("import", "vidur", "--from", vidur, "--into", into, *VIDUR)
    assert {file.name: file.read_bytes() for file in into.iterdir()} == before


def test_import_refuses_a_folder_of_other_things(vidur: Path, tmp_path: Path) -> None:
    error = refusal("import", "vidur", "--from", vidur, "--into", vidur, *VIDUR)
    assert "is no profile store" in error.message
    assert os.listdir(vidur) == ["all_reduce.csv"]
    file = tmp_path / "file"
    file.write_text("")
    assert "is no profile store" in refusal("import", "vidur", "--into", file, *VIDUR).message


def test_import_refuses_a_broken_store_before_it_reads(vidur: Path, tmp_path: Path) -> None:
    into = tmp_path / "store"
    into.mkdir()
    (into / MANIFEST).write_text("{")
    result = run("import", "vidur", "--from", vidur, "--into", into, *VIDUR)
    assert isinstance(result.exception, DataError)
    assert "read collective" not in result.stderr


def test_import_refuses_when_nothing_matches(tmp_path: Path) -> None:
    table = pd.DataFrame({"gemm_dtype": ["bfloat16"], "m": 1, "n": 1, "k": 1, "latency": 1.0, "kernel_source": "x"})
    folder = tmp_path / "systems/data/h200_sxm/gemm/vllm/0.24.0"
    folder.mkdir(parents=True)
    table.to_parquet(folder / "gemm_perf.parquet")
    into = tmp_path / "store"
    command = ("import", "aiconfigurator", "--from", tmp_path, "--into", into)
    assert "no rows there match" in refusal(*command, "--option", "gpu=B200").message
    assert not into.exists()
    output(*command, "--option", "gpu=H200")
    assert len(ProfileStore(into).query("gemm")) == 1


# -------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("command", ["list", "show", "import"])
def test_help_has_examples_that_parse(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = output(command, "--help")
    assert "Examples:" in text
    assert f"plan profile {command}" in text


def test_help_names_every_format_and_option() -> None:
    text = " ".join(output("import", "--help").split())
    for importer in importers().values():
        assert importer.name in text
        for option in importer.options:
            assert option in text, option


def test_help_names_every_operation() -> None:
    text = " ".join(output("show", "--help").split())
    assert all(operation in text for operation in OPERATIONS)
    assert "microseconds" in text
    assert "bytes" in text
