"""``python -m tests.benchmarks.launchers.platforms [--sky PYTHON] [--ray PYTHON] [--vllm PYTHON]``: what exports write,
taken by the platforms themselves: SkyPilot's task, Ray's schema of a Serve configuration and vLLM's engine arguments in
it, and a Slurm controller on the loopback that takes each script for a cluster that is large enough and refuses it for
one that is not. What is not installed is said."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from planner.exports.registry import exported
from planner.launchers import launchers
from profiles.errors import Unsupported
from tests.planner.exports.made import asked, matrix

READERS = {
    "skypilot": (
        "task.yaml",
        "import json, sys, yaml, sky\n"
        "for line in sys.stdin:\n"
        "    try: sky.Task.from_yaml_config(yaml.safe_load(json.loads(line))); said = ''\n"
        "    except Exception as error: said = f'{type(error).__name__}: {error}'\n"
        "    print(json.dumps(said))\n",
    ),
    "ray-serve": (
        "serve.yaml",
        "import json, sys, yaml\nfrom ray.serve.schema import ServeDeploySchema\n"
        "for line in sys.stdin:\n"
        "    try: ServeDeploySchema.model_validate(yaml.safe_load(json.loads(line))); said = ''\n"
        "    except Exception as error: said = f'{type(error).__name__}: {error}'\n"
        "    print(json.dumps(said))\n",
    ),
}
ENGINES = """\
import json, sys, yaml
def engines(node):
    for key, value in node.items() if isinstance(node, dict) else enumerate(node if isinstance(node, list) else ()):
        if key == "engine_kwargs":
            yield value
        else:
            yield from engines(value)
import vllm.platforms
from vllm.platforms.cpu import CpuPlatform
vllm.platforms._current_platform = CpuPlatform()
from vllm.engine.arg_utils import AsyncEngineArgs
for line in sys.stdin:
    try:
        told = [AsyncEngineArgs(model="m", **each) for each in engines(yaml.safe_load(json.loads(line)))]
        said = "" if told else "no engine is told anything"
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    print(json.dumps(said))
"""
CLASSES = """\
import importlib, json, sys, yaml
sys.path.insert(0, sys.argv[1])
import vllm.platforms
from vllm.platforms.cpu import CpuPlatform
vllm.platforms._current_platform = CpuPlatform()
try: importlib.import_module("vllm.entrypoints.launchers.cli_args")
except ModuleNotFoundError:  # where releases after Ray's own have it
    sys.modules["vllm.entrypoints.launchers.cli_args"] = importlib.import_module("vllm.entrypoints.common.cli_args")
from ray.llm._internal.serve.core.ingress.builder import LLMServingArgs
from ray.llm._internal.serve.serving_patterns.data_parallel.builder import DPOpenAiServingArgs
from ray.llm._internal.serve.serving_patterns.prefill_decode.builder import PDServingArgs
TAKE = {"openai": LLMServingArgs, "dp_openai": DPOpenAiServingArgs, "pd_openai": PDServingArgs}
for line in sys.stdin:
    said = ""
    for each in yaml.safe_load(json.loads(line))["applications"]:
        try: TAKE[each["import_path"].partition("build_")[2][:-4]].model_validate(each["args"])
        except Exception as error: said = f"{type(error).__name__}: {error}"
    print(json.dumps(said))
"""
SLURM = ("slurmctld", "sbatch", "sinfo", "munged", "munge")
PORT = 16817
CONTROLLER = """\
ClusterName=trial
SlurmctldHost=localhost(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={socket}
SlurmUser={user}
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/pid
SlurmctldLogFile={folder}/log
SlurmctldPort={port}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
GresTypes=gpu
SwitchType=switch/none
ResumeProgram=/bin/true
SuspendProgram=/bin/true
SuspendTime=3600
AccountingStorageType=accounting_storage/none
NodeName=h[0-{last}] CPUs=64 RealMemory=100000 Gres=gpu:8 State=CLOUD
PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def written(target: str) -> Iterator[tuple[str, int, Mapping[str, str]]]:
    """(cell, nodes of its plan, files) of every cell that the target writes."""
    for framework in launchers():
        for cell, plan in matrix(framework):
            request = asked(plan)
            try:
                yield f"{framework}: {cell}", len(request.values.nodes), exported(target, request)[1]
            except Unsupported:
                continue


def read(target: str, python: Path, code: str, *arguments: str) -> Counter[str]:
    """What ``code`` says of each cell's file; "": it takes it."""
    name = READERS[target][0]
    texts = [files[name] for _, _, files in written(target)]
    lines = "".join(f"{json.dumps(text)}\n" for text in texts)
    ran = subprocess.run(
        [str(python), "-I", "-c", code, *arguments], input=lines, capture_output=True, text=True, check=True
    )
    return Counter(json.loads(line) for line in ran.stdout.splitlines() if line.startswith('"'))


@contextmanager
def credentials(folder: Path) -> Iterator[Path]:
    """The socket of a munge daemon of our own, with a key of its own: nothing of the system's is needed or touched."""
    key, socket = folder / "key", folder / "socket"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    files = [f"--{name}={folder / name}" for name in ("log-file", "pid-file", "seed-file")]
    files += [f"--socket={socket}", f"--key-file={key}"]
    command = [shutil.which("munged") or "/usr/sbin/munged", "--foreground", "--force", *files]
    runs = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        answered = wait_for(lambda: not subprocess.run(["munge", "-n", "-S", socket], capture_output=True).returncode)
        if not answered:
            runs.terminate()
            raise SystemExit(f"munged does not start: {runs.communicate()[1].decode().strip()}")
        yield socket
    finally:
        runs.terminate()
        runs.wait(timeout=20)


def wait_for(answers: Callable[[], bool]) -> bool:
    """Whether it answers within ten seconds."""
    for _ in range(40):
        time.sleep(0.25)
        if answers():
            return True
    return False


@contextmanager
def controller(nodes: int, socket: Path) -> Iterator[dict[str, str]]:
    """A Slurm controller of so many nodes of 8 GPUs, and the environment of its clients. ``socket``: of munge."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "state").mkdir()
        config = folder / "slurm.conf"
        user = os.environ.get("USER", "root")
        config.write_text(CONTROLLER.format(folder=folder, last=nodes - 1, port=PORT, user=user, socket=socket))
        (folder / "gres.conf").write_text(f"NodeName=h[0-{nodes - 1}] Name=gpu Count=8\n")
        environment = {**os.environ, "SLURM_CONF": str(config)}
        with open(folder / "out", "w") as out:
            runs = subprocess.Popen(["slurmctld", "-D", "-f", str(config)], stdout=out, stderr=out, env=environment)
            try:
                if not wait_for(lambda: not subprocess.run(["sinfo"], env=environment, capture_output=True).returncode):
                    raise SystemExit(f"slurmctld does not answer: {(folder / 'out').read_text().strip()[-500:]}")
                yield environment
            finally:
                runs.terminate()
                runs.wait(timeout=20)


def submitted(large_enough: bool, socket: Path) -> Counter[str]:
    """What ``sbatch --test-only`` says of each cell's script on a cluster of 16 nodes, or of one node less than the
    plan has."""
    cells = list(written("slurm"))
    counts: Counter[str] = Counter()
    sizes = {16} if large_enough else {nodes - 1 for _, nodes, _ in cells if nodes > 1}
    for size in sorted(sizes):
        with controller(size, socket) as environment, tempfile.TemporaryDirectory() as made:
            for cell, nodes, files in cells:
                if not large_enough and nodes - 1 != size:
                    continue
                script = Path(made) / "job.sbatch"
                script.write_text(files["job.sbatch"])
                command = ["sbatch", "--test-only", str(script)]
                ran = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=made)
                said = "" if ran.returncode == 0 else ran.stderr.strip().splitlines()[-1]
                counts[said or "taken"] += 1
                if large_enough and said:
                    print(f"  {cell}: {said}")
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sky", type=Path, help="an interpreter with SkyPilot")
    parser.add_argument("--ray", type=Path, help="an interpreter with ray[serve]")
    parser.add_argument(
        "--vllm", type=Path, help="an interpreter with vLLM, for the engine_kwargs of Ray's configuration"
    )
    given = parser.parse_args()
    failed = False
    for title, target, python, code in (
        ("skypilot", "skypilot", given.sky, READERS["skypilot"][1]),
        ("ray-serve", "ray-serve", given.ray, READERS["ray-serve"][1]),
        ("ray-serve, engine_kwargs and arguments of its builders", "ray-serve", given.vllm, ENGINES),
    ):
        if python is None:
            print(f"{title}: not run (name an interpreter that has it)")
            continue
        counts = read(target, python, code)
        if code is ENGINES and given.ray is not None:
            site = next((given.ray.absolute().parent.parent / "lib").glob("python*/site-packages"))
            counts += read(target, python, CLASSES, str(site))
        failed |= set(counts) != {""}
        print(f"{title}: {counts['']} of {counts.total()} taken; {dict(counts - Counter({'': counts['']}))}")
    if missing := [name for name in SLURM if shutil.which(name) is None and not Path(f"/usr/sbin/{name}").exists()]:
        print(f"slurm: not run ({', '.join(missing)} missing: Debian's slurmctld, slurm-client, munge)")
        return int(failed)
    with tempfile.TemporaryDirectory(prefix="munge-") as made, credentials(Path(made)) as socket:
        large, small = submitted(True, socket), submitted(False, socket)
    failed |= set(large) != {"taken"} or "taken" in small
    print(f"slurm: {large['taken']} of {large.total()} taken; on too small a cluster {dict(small)}")
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
