"""A training plan as a job: torchrun on every node, under Slurm, as a LeaderWorkerSet or as a JobSet."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from planner.exports.kube import resource_of
from planner.exports.text import comments, name_of, yaml_text
from planner.exports.torchrun import TrainingTarget
from planner.launchers.vendors import vendor_of
from planner.launchers.words import for_kubernetes, for_shell, shell_lines, variable

REPLICATED = "nodes"
"""The name of the one Job of a JobSet."""


class SlurmTraining(TrainingTarget):
    name: ClassVar[str] = "slurm"
    writes: ClassVar[str] = "job.sbatch: torchrun on every node, and the framework's file"
    release: ClassVar[str] = "Slurm 20.11 and later"
    rung: ClassVar[int] = 1

    @property
    def needs(self) -> tuple[str, ...]:
        return (*self.script_needs, *self.module_needs)

    def steps(self, folder: Path) -> tuple[str, ...]:
        return (f"start: cd {folder} && sbatch job.sbatch",)

    def files(self) -> dict[str, str]:
        values = self.values
        options = {
            "job-name": name_of(self.plan.request.model),
            "nodes": str(self.nodes),
            "ntasks-per-node": "1",
            "gpus-per-node": str(self.gpus_per_node),
            "partition": values.partition,
            "account": values.account,
            "time": values.time_limit,
        }
        lines = "".join(f"#SBATCH --{key}={value}\n" for key, value in options.items() if value)
        inner = shell_lines(self.torchrun("SLURM_NODEID", variable("HEAD_ADDRESS"), f"{variable('HERE')}/"), "  ")
        body = (
            "set -eu\n"
            'HEAD_ADDRESS=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)\nexport HEAD_ADDRESS\n'
            "HERE=${SLURM_SUBMIT_DIR:-.}\nexport HERE\n"
            + "".join(f"export {name}={value}\n" for name, value in self.environment.items())
            + "# shellcheck disable=SC2016  # filled in on each node\n"
            f"srun --kill-on-bad-exit=1 sh -c {for_shell('exec ' + inner)}\n"
        )
        return {"job.sbatch": f"#!/bin/sh\n{lines}{comments(self.told)}{body}", **self.arguments()}


class KubernetesTraining(TrainingTarget):
    name: ClassVar[str] = "kubernetes"
    writes: ClassVar[str] = "a LeaderWorkerSet of torchrun, and the framework's file in a ConfigMap"
    release: ClassVar[str] = "Kubernetes 1.28 and later, LeaderWorkerSet v1"
    rung: ClassVar[int] = 1

    rank: ClassVar[str] = "LWS_WORKER_INDEX"
    """Variable that holds a pod's number."""

    def head(self, name: str) -> str:
        """The address of the first pod; ``name``: of the set."""
        return variable("LWS_LEADER_ADDRESS")

    @property
    def needs(self) -> tuple[str, ...]:
        return ("image", *self.script_needs, *self.module_needs)

    def steps(self, folder: Path) -> tuple[str, ...]:
        return (f"start: kubectl apply -f {folder}/training.yaml",)

    def files(self) -> dict[str, str]:
        values, name = self.values, name_of(self.plan.request.model, "training")
        meta = {"name": name, **({"namespace": values.namespace} if values.namespace else {})}
        files = self.arguments()
        words = [for_kubernetes(each) for each in self.torchrun(self.rank, self.head(name), "/etc/plan/")]
        container = {
            "name": "train",
            "image": values.image,
            "command": words[:1],
            "args": words[1:],
            **({"env": [{"name": k, "value": v} for k, v in self.environment.items()]} if self.environment else {}),
            "resources": {"limits": {resource_of(values, vendor_of(self.plan.decision.gpu)): str(self.gpus_per_node)}},
            "volumeMounts": [
                {"name": "shm", "mountPath": "/dev/shm"},
                {"name": "plan-files", "mountPath": "/etc/plan"},
                *([{"name": "models", "mountPath": "/models"}] if values.storage_claim else []),
            ],
        }
        pod = {
            "containers": [container],
            "volumes": [
                {"name": "shm", "emptyDir": {"medium": "Memory"}},
                {"name": "plan-files", "configMap": {"name": name}},
                *(
                    [{"name": "models", "persistentVolumeClaim": {"claimName": values.storage_claim}}]
                    if values.storage_claim
                    else []
                ),
            ],
            **({"serviceAccountName": values.service_account} if values.service_account else {}),
            **({"nodeSelector": dict(values.node_selector)} if values.node_selector else {}),
            **({"tolerations": [dict(each) for each in values.tolerations]} if values.tolerations else {}),
        }
        config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": files}
        return {"training.yaml": yaml_text(config, self.job(meta, pod), header=self.told), **files}

    def job(self, meta: dict[str, str], pod: dict[str, Any]) -> dict[str, Any]:
        """What runs ``pod`` on every node."""
        return {
            "apiVersion": "leaderworkerset.x-k8s.io/v1",
            "kind": "LeaderWorkerSet",
            "metadata": meta,
            "spec": {
                "replicas": 1,
                "leaderWorkerTemplate": {
                    "size": self.nodes,
                    "restartPolicy": "RecreateGroupOnPodRestart",
                    "workerTemplate": {"spec": pod},
                },
            },
        }


class JobSetTraining(KubernetesTraining):
    """A Job of as many pods as nodes: it ends when training does, where a LeaderWorkerSet starts it anew."""

    name: ClassVar[str] = "jobset"
    writes: ClassVar[str] = "a JobSet of torchrun, and the framework's file in a ConfigMap"
    release: ClassVar[str] = "Kubernetes 1.28 and later, JobSet v1alpha2"
    rung: ClassVar[int] = 1
    rank: ClassVar[str] = "JOB_COMPLETION_INDEX"

    def head(self, name: str) -> str:
        """The first pod's name in the JobSet's own network: SET-JOB-0-0.SET."""
        return f"{name}-{REPLICATED}-0-0.{name}"

    def job(self, meta: dict[str, str], pod: dict[str, Any]) -> dict[str, Any]:
        once = {**pod, "restartPolicy": "Never"}
        return {
            "apiVersion": "jobset.x-k8s.io/v1alpha2",
            "kind": "JobSet",
            "metadata": meta,
            "spec": {
                "network": {"enableDNSHostnames": True},
                "replicatedJobs": [
                    {
                        "name": REPLICATED,
                        "replicas": 1,
                        "template": {
                            "spec": {
                                "parallelism": self.nodes,
                                "completions": self.nodes,
                                "completionMode": "Indexed",
                                "backoffLimit": 0,
                                "template": {"spec": once},
                            }
                        },
                    }
                ],
            },
        }
