"""What a launcher does with a plan: reads the JSON, checks it against the schema, and lists what to start where.

plan … --output plan.json && python examples/read_a_plan.py plan.json
"""

import sys
from pathlib import Path

from planner.contract.published import check_not_edited
from planner.serving.document.plan import read_plan
from profiles.errors import ShardwrightError

if len(sys.argv) != 2:
    sys.exit("usage: python examples/read_a_plan.py PLAN.json (as `plan --output` wrote it)")
try:
    document = read_plan(Path(sys.argv[1]))
    check_not_edited(document, sys.argv[1])
except ShardwrightError as error:
    sys.exit(f"error: {error.message}\nhint: {error.hint}")
for group in document.decision.engines:
    for replica in group.replicas:
        nodes = sorted({rank.node for rank in replica.ranks})
        gpus = {node: [rank.gpu for rank in replica.ranks if rank.node == node] for node in nodes}
        where = "; ".join(f"node {node}: GPUs {','.join(map(str, gpus[node]))}" for node in nodes)
        print(f"{replica.id} ({group.role}, weight {replica.weight:.3f}) on pool {group.pool}, {where}")
    print(" ", " ".join(group.launch.command))
