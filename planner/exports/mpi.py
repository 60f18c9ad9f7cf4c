"""Engines whose framework runs over several nodes as one MPI world: ``mpirun`` on the first node, ssh to the others.

TensorRT-LLM is started so: ``mpirun -np GPUS --host … trtllm-llmapi-launch trtllm-serve …``, where every rank but the
first waits for work (NVIDIA/TensorRT-LLM tensorrt_llm/llmapi/trtllm-llmapi-launch at 020c89e6). In pods the others run
an ssh daemon of their own, as Dynamo's operator has them (ai-dynamo/dynamo deploy/operator/internal/dynamo/
backend_trtllm.go at 015d780b)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from planner.exports.fleet import PlacedEngine
from planner.launchers.front import NodeStart
from planner.launchers.vendors import find_vendor
from planner.launchers.words import shell_lines, variable

SSH_PORT = 2222
KEYS = "/etc/plan-ssh"
"""Where pods have the secret of their key, of type kubernetes.io/ssh-auth."""

NOTE = (
    "mpirun on an engine's first node starts its part on the others over ssh: each must let the first in without a "
    "password, and hold Open MPI and the same files"
)


def unlike(engine: PlacedEngine) -> str | None:
    """Why ranks that are told the same cannot run the engine on its nodes, or None where they can."""
    numbers = {share.gpus for share in engine.shares}
    if len(numbers) == 1:
        return None
    told = " and ".join(",".join(map(str, each)) for each in sorted(numbers))
    return f"all ranks of an MPI world see the same GPU numbers, and its nodes give it {told}"


def world(
    program: str, start: NodeStart, engine: PlacedEngine, hosts: Sequence[str], *, gpus: bool = True, more: str = ""
) -> NodeStart:
    """What runs ``start`` as one MPI world over ``hosts``, a rank a GPU. ``gpus``: whether ranks are told which they
    see; ``more``: arguments of ssh."""
    slots = [f"{host}:{count}" for host, count in zip(hosts, engine.gpus_by_node, strict=True)]
    return replace(
        start, command=_mpirun(program, start, engine, ",".join(slots), gpus=gpus, more=more), environment={}
    )


def _mpirun(
    program: str,
    start: NodeStart,
    engine: PlacedEngine,
    hosts: str,
    *,
    gpus: bool,
    more: str,
    passed: Sequence[str] = (),
) -> tuple[str, ...]:
    told = dict(start.environment)
    if gpus:
        told = {**find_vendor(engine.spec.vendor).seeing(engine.shares[0].gpus), **told}
    return (
        *("mpirun", "--allow-run-as-root", "-np", str(sum(engine.gpus_by_node)), "--host", hosts),
        *("--map-by", "slot", "--bind-to", "none"),
        *(("--mca", "plm_rsh_args", more) if more else ()),
        *(word for name in ("PATH", "LD_LIBRARY_PATH", *passed) for word in ("-x", name)),
        *(word for name, value in told.items() for word in ("-x", f"{name}={value}")),
        program,
        *start.command,
    )


def pod_scripts(program: str, start: NodeStart, engine: PlacedEngine, *, secret: bool) -> tuple[str, str]:
    """(what the first pod of a LeaderWorkerSet runs, what the others do), for ``sh -c``. ``secret``: whether they have
    the hub's token."""
    nodes, each = len(engine.shares), engine.gpus_by_node[0]
    passed = ("HF_TOKEN",) if secret else ()
    command = _mpirun(program, start, engine, variable("HOSTS"), gpus=False, more=variable("SSH_ARGS"), passed=passed)
    key = f'set -eu\numask 077\nmkdir -p "$HOME/.ssh"\ncp {KEYS}/ssh-privatekey "$HOME/.ssh/plan"\n'
    leader = (
        f"{key}"
        f'SSH_ARGS="-p {SSH_PORT} -i $HOME/.ssh/plan -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null '
        '-o LogLevel=ERROR"\n'
        f"HOSTS=$POD_IP:{each}\n"
        f'rank=1\nwhile [ "$rank" -lt {nodes} ]; do\n'
        '  name="${LWS_LEADER_ADDRESS%%.*}-$rank.${LWS_LEADER_ADDRESS#*.}"\n'
        "  # shellcheck disable=SC2086\n"
        '  until address=$(getent hosts "$name" | awk \'{ print $1; exit }\') && [ -n "$address" ] '
        '&& ssh $SSH_ARGS "$address" true; do\n    sleep 2\n  done\n'
        f'  HOSTS="$HOSTS,$address:{each}"\n  rank=$((rank + 1))\n'
        "done\n"
        f"exec {shell_lines(command, '  ')}\n"
    )
    worker = (
        f"{key}"
        'ssh-keygen -y -f "$HOME/.ssh/plan" >"$HOME/.ssh/plan.pub"\n'
        '[ -f "$HOME/.ssh/plan-host" ] || ssh-keygen -q -t ed25519 -N "" -f "$HOME/.ssh/plan-host"\n'
        "mkdir -p /run/sshd 2>/dev/null || true\n"
        f'exec "$(command -v sshd || echo /usr/sbin/sshd)" -D -e -f /dev/null -p {SSH_PORT} -h "$HOME/.ssh/plan-host" '
        "\\\n  -o StrictModes=no -o PasswordAuthentication=no -o PidFile=none "
        '-o AuthorizedKeysFile="$HOME/.ssh/plan.pub" \\\n'
        '  -o SetEnv="PATH=$PATH LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}"\n'
    )
    return leader, worker
