"""What a launcher does with a plan: reads the JSON, checks it against the schema, and lists what to start where."""

import sys
from pathlib import Path

from planner.plans import read_plan

document = read_plan(Path(sys.argv[1]))
for group in document.decision.engines:
    for replica in group.replicas:
        nodes = sorted({rank.node for rank in replica.ranks})
        gpus = {node: [rank.gpu for rank in replica.ranks if rank.node == node] for node in nodes}
        where = "; ".join(f"node {node}: GPUs {','.join(map(str, gpus[node]))}" for node in nodes)
        print(f"{replica.id} (weight {replica.weight:.3f}) on pool {group.pool}, {where}")
    print(" ", " ".join(group.launch.command))
