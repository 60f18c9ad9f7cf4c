"""``python -m tests.benchmarks.launchers.real vllm 0.33.0 [--plans 500]``: the command lines of random plans through
the framework's own parser and configuration, in an environment of its own (made as ``planner.launchers.refresh`` makes
it, or ``--python``). Prints how many pass, and what each refusal is of: ``refusals.yaml`` lists those that come from
having no GPU, no full installation or no whole configuration."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import platformdirs
import yaml

from planner.launchers.refresh import environment
from profiles.errors import ShardwrightError
from tests.benchmarks.launchers.commands import checkpoint, commands, model_names
from tests.benchmarks.launchers.random_plans import random_plans

HERE = Path(__file__).parent


def cases(framework: str, count: int, folder: Path) -> tuple[list[dict[str, object]], Counter[str]]:
    """(commands, what our own rules refuse) of random plans."""
    found: list[dict[str, object]] = []
    refused: Counter[str] = Counter()
    for number, (model, plan) in enumerate(random_plans(framework, model_names(), count)):
        try:
            for name, words in commands(plan, checkpoint(model, folder / "models")):
                found.append({"id": f"{number} {model} {name}", "argv": words})
        except ShardwrightError as error:
            refused[error.message] += 1
    return found, refused


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.launchers.real", description=__doc__)
    parser.add_argument("framework", choices=["vllm", "sglang"])
    parser.add_argument("version")
    parser.add_argument("--plans", type=int, default=500)
    parser.add_argument("--python", type=Path)
    parser.add_argument("--answers", type=Path, help="where to write what was said of each command")
    asked = parser.parse_args()
    cache = Path(platformdirs.user_cache_dir("shardwright")) / "launchers" / f"{asked.framework}-{asked.version}"
    python = asked.python or environment(asked.framework, asked.version, cache, configuration=True)
    known = yaml.safe_load((HERE / "refusals.yaml").read_text("utf-8"))[asked.framework]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found, refused = cases(f"{asked.framework}@{asked.version}", asked.plans, folder)
        (folder / "cases.jsonl").write_text("".join(f"{json.dumps(case)}\n" for case in found))
        worker = HERE / "worker.py"
        ran = subprocess.run(
            [str(python), "-I", str(worker), asked.framework, str(folder)], capture_output=True, text=True
        )
        if ran.returncode:
            print(ran.stderr[-2000:])
            return 1
        answers = [json.loads(line) for line in (folder / "answers.jsonl").read_text("utf-8").splitlines()]
        if asked.answers is not None:
            asked.answers.write_bytes((folder / "answers.jsonl").read_bytes())
    counts: Counter[str] = Counter()
    other: Counter[str] = Counter()
    for answer in answers:
        if "parser" in answer:
            counts["refused by the parser"] += 1
            other[f"parser: {answer['parser']}"] += 1
            continue
        counts["taken by the parser"] += 1
        said = answer.get("config")
        if said is None:
            counts["taken by the configuration"] += 1
        elif (why := next((each["why"] for each in known if re.search(each["pattern"], said)), None)) is not None:
            counts[f"not judged: {why}"] += 1
        else:
            counts["refused by the configuration"] += 1
            other[said[:160]] += 1
    print(f"{asked.framework} {asked.version}: {asked.plans} random plans, {len(answers)} command lines")
    for what, count in counts.most_common():
        print(f"  {count:>5} {what}")
    for what, count in [*other.most_common(10), *((f"refused by our rules: {k}", v) for k, v in refused.items())]:
        print(f"  {count:>5} {what}")
    return 1 if other else 0


if __name__ == "__main__":
    raise SystemExit(main())
