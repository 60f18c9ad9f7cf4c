"""``python -m tests.benchmarks.launchers.worlds``: MPI worlds of TensorRT-LLM started for real on the loopback, as an
export for Kubernetes and one for the shell have them: Open MPI's ``mpirun``, an ssh daemon, and in place of
``trtllm-llmapi-launch`` a program that says its rank, how it was reached and what it was told. What is not installed is
said."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import yaml

from planner.exports.mpi import KEYS, SSH_PORT
from planner.exports.registry import exported
from tests.planner.exports.made import asked, matrix

NEEDS = ("mpirun", "ssh", "sshd", "ssh-keygen")
CELL = "latent, several nodes, aggregated"
RANK = '#!/bin/sh\necho "$OMPI_COMM_WORLD_RANK/$OMPI_COMM_WORLD_SIZE ${SSH_CONNECTION:+ssh} $*"\n'
FOUND = "#!/bin/sh\necho 127.0.0.2 x\n"
"""In place of ``getent``: every pod of the group lies at an address of its own on the loopback."""
ASK = '#!/bin/sh\nexec ssh -p {port} -i {key} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null "$@"\n'


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def ranks(output: str, command: str) -> Counter[str]:
    """How many ranks ran ``command`` here, and how many over ssh."""
    said = [line.partition(" ") for line in output.splitlines() if command in line and "/16 " in line]
    assert len({rank for rank, _, _ in said}) == len(said), output
    return Counter("over ssh" if rest.startswith("ssh ") else "here" for _, _, rest in said)


def main() -> int:
    if missing := [name for name in NEEDS if shutil.which(name) is None and not Path(f"/usr/sbin/{name}").exists()]:
        print(f"worlds: not run ({', '.join(missing)} missing: Debian's openmpi-bin and openssh-server)")
        return 0
    plan = dict(matrix("trtllm"))[CELL]
    objects = yaml.safe_load_all(exported("kubernetes", asked(plan))[1]["engines.yaml"])
    group = next(each for each in objects if each["kind"] == "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]
    leader, worker = (
        group[part]["spec"]["containers"][0]["args"][0].replace("$$(", "$(")
        for part in ("leaderTemplate", "workerTemplate")
    )
    start = exported("shell", asked(plan, nodes=("127.0.0.1", "127.0.0.2", "10.0.0.3", "10.0.0.4"), ssh_user=None))
    shell = start[1]["node-0/start.sh"]
    failed = False
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for name in ("leader", "worker", "keys", "bin", "node-0"):
            (folder / name).mkdir()
        key = folder / "keys" / "ssh-privatekey"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        program(folder / "bin" / "trtllm-llmapi-launch", RANK)
        program(folder / "bin" / "getent", FOUND)
        program(folder / "bin" / "ask", ASK.format(port=SSH_PORT, key=key))
        path = f"{folder / 'bin'}:{os.environ['PATH']}"
        pods = {**os.environ, "PATH": path, "LWS_LEADER_ADDRESS": "e-0.e.serving", "HF_TOKEN": "t"}
        text = worker.replace(KEYS, str(folder / "keys"))
        daemon = subprocess.Popen(
            ["sh", "-c", text], env={**pods, "HOME": str(folder / "worker")}, stderr=subprocess.DEVNULL
        )
        try:
            ran = subprocess.run(
                ["sh", "-c", leader.replace(KEYS, str(folder / "keys"))],
                env={**pods, "HOME": str(folder / "leader"), "POD_IP": "127.0.0.1"},
                capture_output=True,
                text=True,
                timeout=120,
            )
            got = ranks(ran.stdout, "trtllm-serve deepseek-ai/DeepSeek-R1 --tp_size 16")
            failed |= got != Counter({"here": 8, "over ssh": 8})
            print(f"worlds: kubernetes: {dict(got)} of 16 ranks, exit {ran.returncode}")
            (folder / "node-0" / "environment").write_text("")
            program(folder / "node-0" / "start.sh", f"{shell}wait\n")
            node = {**os.environ, "PATH": path, "OMPI_MCA_plm_rsh_agent": str(folder / "bin" / "ask")}
            subprocess.run([str(folder / "node-0" / "start.sh")], env=node, timeout=120, check=True)
            got = ranks(
                (folder / "node-0" / "logs" / "engine-0-0.log").read_text(), "trtllm-serve deepseek-ai/DeepSeek-R1"
            )
            failed |= got != Counter({"here": 8, "over ssh": 8})
            print(f"worlds: shell: {dict(got)} of 16 ranks")
        finally:
            daemon.terminate()
            daemon.wait(timeout=20)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
