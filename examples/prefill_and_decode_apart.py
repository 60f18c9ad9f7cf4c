"""When is it worth prefilling and decoding on different engines? The same GPUs and prompts under ever tighter promises
on the time per token: the plan compares both ways on equal terms and says by how much one wins."""

from planner import plan
from profiles.errors import Infeasible

REQUEST = {"model": "Qwen/Qwen3-32B", "cluster": "16xH200", "workload": "isl=4000,osl=500"}

for tpot_ms in (50, 30, 20, 15, 10):
    try:
        document = plan({**REQUEST, "slo": f"ttft=1s,tpot={tpot_ms}ms"})
    except Infeasible as error:
        print(f"tpot {tpot_ms:2} ms: {error.message}")
        continue
    ways = {row.serving: row for row in document.proof.compared}
    reached = ", ".join(
        f"{serving} " + ("–" if row.objective_value is None else f"{row.objective_value:5.2f} requests/s")
        for serving, row in sorted(ways.items())
    )
    engines = " + ".join(
        f"{len(group.replicas)} × {group.layout.label}" + ("" if group.role == "aggregated" else f" {group.role}")
        for group in document.decision.engines
    )
    print(f"tpot {tpot_ms:2} ms: {reached}; taken: {engines}")
