"""Feeds a plan to a launcher: asks the service, and prints what to start on which node, as a launcher would.

plan serve &  then  python examples/service/start_a_plan.py http://127.0.0.1:8000
"""

import shlex
import sys

from api.client import Client, ServiceAway, ServiceProblem

REQUEST = {
    "model": "Qwen/Qwen3-8B",
    "cluster": "2xH200",
    "slo": "ttft=1s,tpot=30ms",
    "workload": "isl=4000,osl=500,rate=4",
}

try:
    with Client(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000") as service:
        job = service.submit("serving", REQUEST)
        for now in job.events():
            print(f"{now['state']}: {now['doing']}", file=sys.stderr)
        plan = job.result()
except (ServiceAway, ServiceProblem) as error:
    sys.exit(f"error: {error.message}\nhint: {error.hint}")
for group in plan.decision.engines:
    for replica in group.replicas:
        nodes = sorted({rank.node for rank in replica.ranks})
        print(f"node {','.join(map(str, nodes))}: {shlex.join(group.launch.command)}")
