"""``python -m tests.benchmarks.launchers.trainers --python PYTHON --packages FOLDER [--older FOLDER]``: what training
plans export, by the parsers of torchtitan 0.3.0 (0.2.2 in ``--older``) and Megatron Bridge 0.3.1, which must read the
plan's degrees, batches and recomputation. PYTHON has torch; ``make test-launchers-real`` installs the folders."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from planner.exports.registry import exported
from planner.exports.target import Asked
from planner.exports.values import Values
from planner.kinds import KINDS, example
from planner.training.document import Stage, TrainingPlan
from planner.training.launchers.launch import launch
from planner.training.planning import setting_of
from profiles.errors import Unsupported

DEGREES = [(1, 1, 1, 1), (2, 2, 1, 1), (8, 1, 2, 1), (4, 4, 1, 1), (1, 2, 2, 1), (1, 1, 1, 8)]
"""tp, pp, cp, ep of the plans."""
KEPT = {"none": ("none", None), "selective": ("selective", "selective"), "full": ("full", "full")}
"""What is recomputed, as torchtitan and as Megatron Bridge read it."""


def plans(framework: str) -> Iterator[tuple[list[object], TrainingPlan]]:
    """(what a parser must read of it, a training plan) of degrees × sharding × recomputation × batches."""
    plan = KINDS["training"].parse(json.dumps(example("training")))
    assert isinstance(plan, TrainingPlan)
    request = plan.request.model_copy(update={"framework": framework, "precision": "bf16"})
    model = setting_of(request.model_copy(update={"model": "Qwen/Qwen3-30B-A3B"}))
    layers, sequence = 32, 8192
    for (tp, pp, cp, ep), sharding, mode, micro in product(DEGREES, (0, 1, 2, 3), KEPT, (1, 2)):
        dp, batch = 16, 256
        gpus = tp * pp * cp * dp
        mesh = plan.decision.mesh.model_copy(
            update={"tp": tp, "pp": pp, "vpp": 1, "dp": dp, "cp": cp, "ep": ep, "moe_tp": 1, "gpus": gpus}
        )
        stages = tuple(
            Stage(
                stage=stage,
                layers=layers // pp,
                runs=(layers // pp,),
                recomputed=layers // pp if mode == "full" else 0,
                first_rank=stage * gpus // pp,
                ranks=gpus // pp,
                first_node=0,
                last_node=0,
            )
            for stage in range(pp)
        )
        asked = request.model_copy(update={"global_batch": batch, "seq_len": sequence})
        decision = plan.decision.model_copy(
            update={
                "mesh": mesh,
                "sharding": sharding,
                "micro_batch": micro,
                "microbatches": batch // dp // micro,
                "schedule": "1f1b" if pp > 1 else "none",
                "recompute": ("core_attn",) if mode == "selective" else (),
                "stages": stages,
                "gpus_used": gpus,
            }
        )
        decision = decision.model_copy(update={"launch": launch(model, asked, decision)})
        own = micro if framework == "megatron" or pp == 1 else batch // dp
        read = [tp, pp, cp, ep, own, batch, sequence, KEPT[mode][framework == "megatron"]]
        yield read, plan.model_copy(update={"request": asked, "decision": decision}).sealed()


def told(target: str, release: str | None, folder: Path) -> tuple[list[list[object]], list[list[str]], int]:
    """(what is to be read, the words, plans that are refused) of every plan."""
    reads, words, refused = [], [], 0
    for number, (read, plan) in enumerate(plans("megatron" if target == "megatron-bridge" else "torchtitan@0.2")):
        named = {"module": "llama3", "config": "8B" if release is None else "llama3_8b"}
        try:
            files = exported(target, Asked(plan, Values(**named), release))[1]
        except Unsupported:
            refused += 1
            continue
        if "torchtitan.toml" in files:
            place = folder / f"{number}.toml"
            place.write_text(files["torchtitan.toml"])
            words.append(["--job.config_file", str(place)])
        else:
            text = files["torchtitan.args" if target == "torchtitan" else "megatron-bridge.overrides"]
            words.append(shlex.split(text, comments=True))
        reads.append(read)
    return reads, words, refused


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path, required=True)
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--older", type=Path, help="a folder with torchtitan 0.2.2")
    given = parser.parse_args()
    failed = False
    for title, target, release, kind, folders in (
        ("torchtitan 0.3.0", "torchtitan", "torchtitan@0.3.0", "torchtitan", [given.packages]),
        ("torchtitan 0.2.2", "torchtitan", None, "torchtitan", [given.older, given.packages]),
        ("Megatron Bridge 0.3.1", "megatron-bridge", None, "bridge", [given.packages]),
    ):
        if folders[0] is None:
            print(f"{title}: not run (name a folder that has it)")
            continue
        with tempfile.TemporaryDirectory() as name:
            reads, words, refused = told(target, release, Path(name))
            worker = Path(__file__).with_name("trainers_worker.py")
            ran = subprocess.run(
                [str(given.python), "-I", str(worker), kind, *(str(each.absolute()) for each in folders)],
                input="".join(f"{json.dumps(each)}\n" for each in words),
                capture_output=True,
                text=True,
            )
        answers = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith(("[", '"'))]
        if len(answers) != len(reads):
            print(f"{title}: {ran.stderr.strip()[-600:]}")
            failed = True
            continue
        other = Counter(
            str(answer) if isinstance(answer, str) else f"read {answer} for {read}"
            for answer, read in zip(answers, reads, strict=True)
            if answer != read
        )
        failed |= bool(other)
        print(f"{title}: {len(reads) - other.total()} of {len(reads)} plans read as planned; {refused} refused here")
        for what, count in other.most_common(5):
            print(f"  {count:>5} {what}")
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
