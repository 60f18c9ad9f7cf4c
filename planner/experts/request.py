"""What a user asks of expert placement: the request document, its statistics inside it.

Recorded statistics are often large: the command line hands the files that it was given over beside the request
(:class:`planner.experts.decision.Files`), and they stand in the place of the request's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from planner.contract.clusters import CountedCluster
from planner.contract.documents import PLAIN_NUMBER, WHOLE_NUMBERS, Document, Name, checked
from planner.contract.engine import FrameworkName
from planner.contract.models import ModelAsked
from planner.contract.options import FRAMEWORK_HELP, Option
from planner.experts.document import Objective
from profiles.hardware import SHIPPED, Catalogue

_ASKED, _STATISTICS, _RULES = "What to place", "Statistics", "Rules"

Count = Annotated[float, Field(ge=0), PLAIN_NUMBER]
Index = Annotated[int, Field(ge=0, le=10**9), PLAIN_NUMBER]
Expert = Annotated[int, Field(ge=-1, le=10**9), PLAIN_NUMBER]
Tokens = Annotated[int, Field(gt=0, le=10**6), PLAIN_NUMBER]


Indices = Annotated[tuple[Index, ...], WHOLE_NUMBERS]


class ExpertCounts(Document):
    """Tokens that each expert received in one recorded workload."""

    name: Name = Field(description="of the workload")
    counts: tuple[tuple[Count, ...], ...] = Field(
        min_length=1, description="[layers][experts]; of the MoE layers, or of all layers with zeros for dense ones"
    )


class ExpertRoutes(Document):
    """Which experts each token used."""

    name: Name
    experts: tuple[tuple[tuple[Expert, ...], ...], ...] = Field(
        min_length=1, description="[tokens][layers][experts of a token]; of the MoE layers, or of all with −1 for dense"
    )


class ExpertMap(Document):
    """The placement that runs now."""

    name: Name
    physical_to_logical_map: tuple[tuple[Index, ...], ...] = Field(
        min_length=1, description="[MoE layers][slots]: the expert there, as a placement's decision has it"
    )


class PlacementRequest(Document):
    """Everything a placement depends on, beside the measurements and the program's version."""

    model: Annotated[ModelAsked, Option("Name (`plan models`), or path of a config.json.", _ASKED)]
    cluster: Annotated[
        CountedCluster,
        Field(description="the GPUs of one expert-parallel group: short form (4x8xH200) or object"),
        Option("The GPUs of one expert-parallel group: 4x8xH200, a YAML file, ...", _ASKED),
    ]
    slots_per_gpu: Annotated[
        Indices | None,
        Field(description="experts that each GPU holds per layer, one number or one for each pool; default: few"),
        Option(
            "Experts that each GPU holds per layer; N,M,... for each pool. Default: as few as hold all.",
            _ASKED,
            metavar="N",
        ),
    ] = None
    redundant: Annotated[
        Annotated[int, PLAIN_NUMBER] | None,
        Field(description="copies beyond one per expert and layer, all GPUs together"),
        Option("Extra copies per layer, all GPUs together.", _ASKED, metavar="N"),
    ] = None
    loads: tuple[ExpertCounts, ...] = Field(default=(), description="recorded workloads; they weigh alike")
    routes: ExpertRoutes | None = Field(default=None, description="recorded routes; alone, they give the loads too")
    holdout: tuple[ExpertCounts, ...] = Field(default=(), description="to score on and not to fit on")
    synthetic: Annotated[
        Name | None,
        Field(description="made-up loads for want of recorded ones: sigma=0.7[,windows=3][,drift=0.2]"),
        Option(
            "Made-up counts for want of recorded ones: sigma=0.7[,windows=3][,drift=0.2].",
            _STATISTICS,
            metavar="sigma=S",
        ),
    ] = None
    objective: Annotated[Objective, Option("balance, traffic (needs --routes) or time.", _RULES)] = "balance"
    over_windows: Annotated[
        Literal["mean", "worst"],
        Field(description="how several windows count together"),
        Option("How several windows count: mean or worst.", _RULES, name="over"),
    ] = "mean"
    balance_tolerance: Annotated[
        float,
        PLAIN_NUMBER,
        Field(ge=0, le=100, description="balance that the objective traffic may give up, relative"),
        Option("Balance that --objective traffic may give up, relative.", _RULES),
    ] = 0.01
    groups: Annotated[
        Annotated[int, PLAIN_NUMBER] | None,
        Field(description="groups of experts that are pinned to nodes (group-limited routing)"),
        Option("Pin N groups of experts to nodes (group-limited routing).", _RULES, metavar="N"),
    ] = None
    dispatch: Annotated[
        Literal["home", "stay"],
        Field(description="home: tokens return to their sequence's GPU after each layer; stay: they go on"),
        Option("home: tokens return after each layer, as in all engines; stay: they go on from their expert.", _RULES),
    ] = "home"
    current: ExpertMap | None = Field(default=None, description="what runs now; null: the engine's default")
    max_moves: Annotated[
        Annotated[int, PLAIN_NUMBER] | None,
        Field(ge=0, le=10**18, description="copies that may move from current, all layers together"),
        Option("Copies that may move from --current, all layers together.", _RULES, metavar="K"),
    ] = None
    max_move_bytes: Annotated[
        Annotated[float, PLAIN_NUMBER] | None,
        Field(ge=0, le=1e18, description="the same as bytes of weights"),
        Option("The same as bytes of weights: 20e9.", _RULES, metavar="BYTES"),
    ] = None
    lost_gpus: Annotated[
        Indices,
        Field(description="GPUs of current that are gone, counted from 0"),
        Option("GPUs of --current that are gone, counted from 0.", _RULES, metavar="3,7"),
    ] = ()
    lost_nodes: Annotated[
        Indices,
        Field(description="nodes of current that are gone"),
        Option("Nodes of --current that are gone.", _RULES, metavar="1"),
    ] = ()
    decode_tokens: Annotated[Tokens, Option("Tokens per GPU in a decode step, for the times.", _RULES)] = 128
    prefill_tokens: Annotated[Tokens, Option("Tokens per GPU in a prefill step, for the times.", _RULES)] = 4096
    precision: Annotated[
        Name | None,
        Field(description="of weights; default: as published"),
        Option("Weights. Default: as published.", _RULES),
    ] = None
    framework: Annotated[FrameworkName, Option(FRAMEWORK_HELP, _RULES)] = "vllm"
    seed: Annotated[int, PLAIN_NUMBER, Field(ge=0), Option("Of the search and of --synthetic.", _RULES)] = 0
    time_limit_s: Annotated[
        float,
        PLAIN_NUMBER,
        Field(gt=0, description="for the balance"),
        Option("Seconds for the balance.", _RULES, name="time_limit"),
    ] = 60.0


def parse_placement_request(value: Mapping[str, Any], catalogue: Catalogue = SHIPPED) -> PlacementRequest:
    """A request from a mapping (JSON, YAML or keyword arguments), its GPUs looked up in ``catalogue``.

    Raises:
        InputError: with the first field that is wrong, its value and what to do.
    """
    return checked(PlacementRequest, value, "request", catalogue, schema="experts-request")
