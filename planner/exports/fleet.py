"""A serving plan as engines that can be started: each with its nodes, addresses and ports, and what stands before
them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby

from costmodels.models.architecture import Architecture
from costmodels.models.huggingface import parse_config
from costmodels.models.precision import choose_precision
from costmodels.models.registry import find_architecture
from costmodels.serving.frameworks.framework import Framework, find_framework
from planner.contract.engine import EngineGroup, carried
from planner.experts.model import moe_model
from planner.exports.minded import minded
from planner.exports.nginx import nginx_front
from planner.exports.text import name_of
from planner.exports.values import Values
from planner.launchers import EngineSpec, Launcher, find_launcher
from planner.launchers.checks import check_start
from planner.launchers.front import Behind, Front, NodeStart
from planner.launchers.places import LAST, Place, Ports
from planner.launchers.releases import ReleaseOptions, nearest_release, release
from planner.launchers.spec import CHECKPOINT, DRAFT_MODEL, MTP
from planner.launchers.vendors import vendor_of
from planner.launchers.words import has_marks, variable
from planner.serving.document.placing import on_hosts
from planner.serving.document.plan import Plan
from profiles.errors import InputError, UnknownName, Unsupported
from profiles.hardware import find_gpu


@dataclass(frozen=True)
class Share:
    """The part of an engine that one node has."""

    node: int  # among the nodes of the whole plan
    gpus: tuple[int, ...]


@dataclass(frozen=True)
class PlacedEngine:
    """One replica. ``slot``: its place among the engines of its nodes, which no other engine of them has."""

    id: str
    group: EngineGroup
    spec: EngineSpec
    weight: float
    shares: tuple[Share, ...]
    slot: int

    @property
    def gpus_by_node(self) -> tuple[int, ...]:
        return tuple(len(share.gpus) for share in self.shares)

    @property
    def role(self) -> str:
        return self.group.role


@dataclass(frozen=True)
class Machine:
    """One node of the plan: the pool that it is of, and its number there."""

    pool: str
    number: int
    gpu: str


class StartedFleet:
    """Everything a target needs to know of a plan.

    Attributes:
        asked: the cluster as planned, whose nodes may be racks.
        release_note: how the release came to be this one, where that is not plain.
        edited: whether the document was changed by hand since it was made.
    """

    def __init__(self, plan: Plan, values: Values, release_of: Released, *, edited: bool = False) -> None:
        self.asked = plan.request.cluster
        self.plan, self.values, self.edited = on_hosts(plan), values, edited
        self.framework, self.options = release_of.framework, release_of.options
        self.release_note = release_of.note
        self.launcher: Launcher = find_launcher(self.framework.spec)

    @cached_property
    def model(self) -> Architecture:
        request = self.plan.request
        if request.config is not None:
            return parse_config(request.config, request.model)
        return find_architecture(request.model)

    @cached_property
    def name(self) -> str:
        return self.values.name or name_of(self.plan.request.model.rstrip("/").rpartition("/")[2], length=30)

    @property
    def first_port(self) -> int:
        return self.values.first_port or self.framework.command.port

    @cached_property
    def machines(self) -> tuple[Machine, ...]:
        """The nodes that the plan uses, pool by pool: hosts, where those of the plan are racks."""
        used = {
            (group.pool, rank.node)
            for group in self.plan.decision.engines
            for replica in group.replicas
            for rank in replica.ranks
        }
        return tuple(
            Machine(pool.name, number, pool.gpu)
            for pool in self.plan.request.cluster.pools
            for number in sorted(node for name, node in used if name == pool.name)
        )

    @cached_property
    def racks(self) -> frozenset[str]:
        """Pools whose nodes were racks in the plan and are hosts here."""
        pools = zip(self.asked.pools, self.plan.request.cluster.pools, strict=True)
        return frozenset(was.name for was, now in pools if was.gpus_per_node != now.gpus_per_node)

    @property
    def is_spread(self) -> bool:
        """Whether the plan's promise rests on which engines share a node."""
        return self.plan.request.survive.nodes > 0 and not self.racks

    def most_on_a_node(self, groups: Sequence[EngineGroup]) -> int:
        """Engines of ``groups`` that stand on one node."""
        ids = {group.id for group in groups}
        on = Counter(share.node for engine in self.engines if engine.group.id in ids for share in engine.shares)
        return max(on.values())

    def gpus_of(self, pool: str) -> int:
        """GPUs that a node of a pool must have for the plan: engines are told their numbers there."""
        return max(
            rank.gpu + 1
            for group in self.plan.decision.engines
            if group.pool == pool
            for replica in group.replicas
            for rank in replica.ranks
        )

    @cached_property
    def addresses(self) -> tuple[str, ...]:
        """Of :attr:`machines`, as the values give them: of the nodes used, or of all nodes of the cluster.

        Raises:
            InputError: another number of them, or one twice.
        """
        given, pools = self.values.nodes, self.plan.request.cluster.pools
        twice = [address for address, times in Counter(given).items() if times > 1]
        if twice:
            raise InputError(f"values: nodes has {twice[0]} twice", "give each node's own address")
        if len(given) == len(self.machines):
            return given
        every = [(pool.name, number) for pool in pools for number in range(pool.nodes)]
        if len(given) == len(every):
            at = dict(zip(every, given, strict=True))
            return tuple(at[machine.pool, machine.number] for machine in self.machines)
        raise InputError(
            f"values: nodes has {len(given)} addresses, and the plan runs on {len(self.machines)} nodes",
            f"give {len(self.machines)}, in the plan's order: "
            + ", ".join(f"node {m.number} of {m.pool}" for m in self.machines[:4])
            + (", …" if len(self.machines) > 4 else ""),
        )

    @cached_property
    def engines(self) -> tuple[PlacedEngine, ...]:
        """Every engine of the plan, in its order."""
        at = {(machine.pool, machine.number): place for place, machine in enumerate(self.machines)}
        taken: dict[int, set[int]] = {}
        out = []
        for group in self.plan.decision.engines:
            spec = self._spec(group)
            for replica in group.replicas:
                ranks = sorted(replica.ranks, key=lambda rank: rank.rank)
                parts = [
                    (node, tuple(rank.gpu for rank in each)) for node, each in groupby(ranks, lambda rank: rank.node)
                ]
                shares = tuple(Share(at[group.pool, node], gpus) for node, gpus in parts)
                if len({share.node for share in shares}) < len(shares):
                    raise Unsupported(
                        f"{replica.id}: its ranks go back to a node that they left",
                        "plan again, with ranks node by node",
                    )
                busy = {slot for share in shares for slot in taken.get(share.node, ())}
                slot = next(slot for slot in range(len(busy) + 1) if slot not in busy)
                for share in shares:
                    taken.setdefault(share.node, set()).add(slot)
                out.append(PlacedEngine(replica.id, group, spec, replica.weight, shares, slot))
        return tuple(out)

    def _spec(self, group: EngineGroup) -> EngineSpec:
        """The engine as it was decided, for this release, with what the values say."""
        request, values, words = self.plan.request, self.values, group.launch.command
        said = find_framework(group.launch.framework).command
        flag = said.flags["model"]
        place = len(said.program) if flag is None else words.index(flag) + 1
        model = words[place] if place < len(words) else request.model
        backend = said.flags.get("attention_backend")
        drafting = request.workload.speculation
        known = request.model if model == CHECKPOINT else model
        if any(has_marks(text) for text in (known, *words)) or known.startswith("-"):
            raise InputError("plan: its commands hold what no command can take", "give the model as checkpoint")
        if values.draft_method == MTP and not self.model.drafts_by_itself:
            raise InputError(
                f"draft_method: {MTP}, and {self.model.name} has no layers that draft", "give a head: draft_model=…"
            )
        pool = next(pool for pool in request.cluster.pools if pool.name == group.pool)
        expert_backend, early_launch = self._kernels(group, pool.gpu)
        return EngineSpec(
            framework=self.framework.spec,
            model=values.checkpoint or known,
            layout=group.layout,
            limits=group.limits,
            weights_precision=group.weights_precision,
            kv_precision=group.kv_precision,
            precision_converted=request.precision_converted or group.weights_precision != self.model.weight_precision,
            published_precision=self.model.weight_precision,
            gpus_per_node=pool.gpus_per_node,
            is_moe=self.model.is_moe,
            role=group.role,
            draft_tokens=drafting.draft_tokens if drafting else 0,
            prefix_hit=request.workload.prefix_hit,
            is_sparse=self.model.is_sparse,
            attention_backend=words[words.index(backend) + 1] if backend in words else "",
            expert_backend=expert_backend,
            early_launch=early_launch,
            converted_checkpoint=values.checkpoint or CHECKPOINT,
            draft_model=values.draft_model or DRAFT_MODEL,
            draft_method=values.draft_method or "",
            placement=group.expert_placement,
            layers=self.model.layers,
            experts=moe_model(self.model).experts if group.layout.ep > 1 else 0,
            vendor=vendor_of(pool.gpu),
        )

    def _kernels(self, group: EngineGroup, gpu: str) -> tuple[str, str]:
        """Its ``expert_backend`` and ``early_launch``: of a GPU that a request described itself nothing is told."""
        try:
            known, can = find_gpu(gpu), self.framework.capabilities
        except UnknownName:
            return "", ""
        launched = can.launched_early(known, self.model.model_type)
        early = launched.variable if launched and launched.holds_at(self.framework.release) else ""
        if not self.model.is_moe:
            return "", early
        experts = choose_precision(self.model, group.weights_precision).of("experts")
        return can.expert_backend(known, experts, self.framework.release, replicas=group.layout.dp > 1), early

    def needs(self) -> tuple[str, ...]:
        """Keys of the values without which the engines cannot be started."""
        return tuple(dict.fromkeys(key for engine in self.engines for key in self.launcher.needs(engine.spec)))

    def needs_of_worlds(self) -> tuple[str, ...]:
        """Keys without which pods cannot be one MPI world."""
        return ("ssh_secret",) if any(map(self.is_world, self.engines)) else ()

    # ------------------------------------------------------------------ as it is started

    def ports(self, engine: PlacedEngine, *, alone: bool = False) -> Ports:
        """Of an engine among those of its nodes; ``alone``: in a network of its own."""
        replicas = max(each.group.layout.dp for each in self.engines)
        first = self.first_port + (1 if self.has_front and not alone else 0)
        ports = Ports.of_slot(first, 0 if alone else engine.slot, replicas)
        if ports.last > LAST:
            raise InputError(
                f"values: first_port {self.first_port} leaves no room for the ports of {engine.id} (to {ports.last})",
                "give a smaller one",
            )
        return ports

    def is_world(self, engine: PlacedEngine) -> bool:
        """Whether one command runs the engine's part on all of its nodes, as an MPI world."""
        return bool(self.launcher.one_world) and len(engine.shares) > 1

    @property
    def has_front(self) -> bool:
        return len(self.engines) > 1

    def start(self, engine: PlacedEngine, place: Place) -> NodeStart:
        """What starts an engine's part in ``place``, as the release takes it.

        Raises:
            Unsupported: the framework or its release cannot be told, naming the engine and the option.
        """
        try:
            started = self.launcher.start(engine.spec, place)
            if self.options is not None:
                check_start(self.options, started, len(self.framework.command.program))
            if self.is_world(engine):
                _check_split(self.launcher.one_world, started)
            return started
        except Unsupported as error:
            raise Unsupported(f"{engine.id}: {error.message}", error.hint) from error

    def placed(self, engine: PlacedEngine, rank: int, addresses: Sequence[str], files: str) -> Place:
        """The place of an engine's ``rank``-th node. ``addresses``: of all nodes of the plan, or variables."""
        return Place(
            node_rank=str(rank),
            leads=rank == 0,
            gpus_by_node=engine.gpus_by_node,
            head=addresses[engine.shares[0].node],
            own=addresses[engine.shares[rank].node],
            ports=self.ports(engine),
            files=files,
        )

    def in_pods(self, engine: PlacedEngine, *, leads: bool, files: str, rank: str = "", head: str = "") -> Place:
        """The place of an engine whose nodes are pods, each with a network of its own. Those that do not lead are told
        the same; ``rank`` and ``head`` are the variables that tell them apart."""
        return Place(
            node_rank="0" if leads else variable(rank),
            leads=leads,
            gpus_by_node=engine.gpus_by_node,
            head=variable(head) if head else variable("POD_IP"),
            own=variable("POD_IP"),
            ports=self.ports(engine, alone=True),
            files=files,
            alike=len(engine.shares) > 1,
        )

    def behind(self, addresses: dict[str, str], *, alone: bool = False) -> list[Behind]:
        """The engines as their front knows them; ``addresses`` by engine."""
        return [
            Behind(engine.group.role, addresses[engine.id], self.ports(engine, alone=alone), engine.weight)
            for engine in self.engines
        ]

    def front(self, addresses: dict[str, str], files: str, *, alone: bool = False) -> Front:
        """What stands before the engines: the framework's own router, or nginx where it has none for their roles."""
        behind = self.behind(addresses, alone=alone)
        front = self.launcher.front(behind, self.first_port, files) or nginx_front(behind, self.first_port, files)
        router = {"vllm-router": "vllm-router", "SGLang's router": "sglang-router"}.get(front.program)
        if router is not None:
            words = front.start.command
            first = 1 if router == "vllm-router" else 3
            check_start(release(router), replace(front.start, command=words[first - 1 :]), 1)
        return front

    # ------------------------------------------------------------------ what is said

    @cached_property
    def told(self) -> tuple[str, ...]:
        """The header of every file."""
        plan, prediction = self.plan, self.plan.prediction
        rate = prediction.request_rate_rps
        edited = "; EDITED since it was made" if self.edited else ""
        figures = f"{rate.value:.3g} requests/s ({rate.low:.3g} to {rate.high:.3g})"
        for name, latency in (("TTFT", prediction.ttft_ms), ("TPOT", prediction.tpot_ms)):
            if latency is not None:
                figures += f", {name} p90 {latency.p90.value:.4g} ms"
        wide = [engine.group.id for engine in self.engines if self.in_rack(engine)]
        groups = plan.decision.engines
        pools = dict.fromkeys(group.pool for group in groups)
        most = {pool: self.most_on_a_node([each for each in groups if each.pool == pool]) for pool in pools}
        lines = [
            f"plan {(plan.digest or 'without a digest')[:16]}, schema {plan.kind} {plan.schema_version}{edited}",
            f"for {self.framework.title}" + (f" ({self.release_note})" if self.release_note else ""),
            f"predicted: {figures}",
            *(
                f"{group.id}: on {group.supply} GPUs of {group.pool}"
                for group in plan.decision.engines
                if group.supply in ("spot", "reserved")
            ),
            *minded(plan, wide, None if self.racks else most),
        ]
        return tuple(lines)

    def in_rack(self, engine: PlacedEngine) -> bool:
        """Whether the plan takes an engine's hosts to be in one NVLink domain."""
        return engine.group.pool in self.racks and len(engine.shares) > 1

    def told_of(self, front: Front) -> tuple[str, ...]:
        """The header, with what the front does to the plan's shares."""
        return self.told if front.weighted else (*self.told, *self.equal_shares)

    @cached_property
    def equal_shares(self) -> tuple[str, ...]:
        """What it costs where the front gives every engine the same share, though the plan does not."""
        rates = {each.engine: each.rate_rps.value for each in self.plan.prediction.engines}
        lines = []
        for role in dict.fromkeys(engine.role for engine in self.engines):
            engines = [engine for engine in self.engines if engine.role == role and engine.group.id in rates]
            shares = carried([engine.weight for engine in engines], [rates[engine.group.id] for engine in engines])
            if shares is None:
                continue
            planned, equal = shares
            loss = max(0.0, 1 - equal / planned)
            lines.append(
                f"the router takes no weights: {role} engines get equal shares, not the plan's; that carries "
                f"{equal:.3g} in place of {planned:.3g} requests/s ({loss:.0%} less)"
            )
        return tuple(lines)


def _check_split(program: str, start: NodeStart) -> None:
    """Refuses words that what starts an MPI world would take apart: trtllm-llmapi-launch runs its arguments unquoted
    (``$task_with_command``, NVIDIA/TensorRT-LLM tensorrt_llm/llmapi/trtllm-llmapi-launch at 020c89e6).

    Raises:
        Unsupported: naming the word.
    """
    for word in start.command:
        if not word or re.search(r"[\s*?\[]", word):
            raise Unsupported(
                f"{program} splits its arguments at spaces and expands * ? [, and {word!r} has one",
                "give the weights under a plain path: --set checkpoint=…",
            )


@dataclass(frozen=True)
class Released:
    """The framework at the release that is exported for. ``options``: of the release, or of the one that stands for it;
    None: nothing is known of the framework's."""

    framework: Framework
    options: ReleaseOptions | None
    note: str


def released(plan: Plan, asked: str | None, *, assume: bool) -> Released:
    """The release of an export: as ``asked`` (``vllm@0.33``), else the plan's.

    Raises:
        UnknownName: one whose options are not known, unless they are to be assumed.
        InputError: another framework than the plan's.
    """
    planned = find_framework(plan.request.framework)
    framework = planned if asked is None else find_framework(asked)
    if framework.name != planned.name:
        raise InputError(
            f"--framework: the plan is for {planned.full_name}, not for {framework.full_name}",
            f"plan again with --framework {framework.name}, or name a release: {planned.spec}",
        )
    version = framework.release.version
    try:
        options = release(framework.name, version)
    except UnknownName as error:
        if not assume:
            hint = f"{error.hint}; or go on as if it were that with --assume-version"
            raise InputError(error.message, hint) from error
        options = nearest_release(framework.name, version)
        return Released(framework, options, f"ASSUMED to take the options of {options.version}: its own are not known")
    return Released(framework, options, "" if options.version == version else f"options as of {options.version}")
