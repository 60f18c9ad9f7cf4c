"""One training layout as people write it: a row of a CSV or the options of a command, read with its defaults.

Blank means the framework's default, and ``defaults`` says which that was. Every error begins with the column's name.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby

from costmodels.training.frameworks import TrainingFramework, find_training_framework
from costmodels.training.layouts import (
    ATTENTION,
    PRECISIONS,
    RECOMPUTED,
    SCHEDULES,
    default_split,
)
from costmodels.training.models import TrainedModel, trained_model
from costmodels.training.setting import MODES, OPTIMIZERS
from planner.training.meanings import ALIASES, COLUMNS
from planner.training.places import NamedPool, StagePlace, check_precision, is_pools, named_pools, stages_in
from profiles.errors import InputError, UnknownName
from profiles.hardware import SHIPPED, Catalogue, Gpu, Node
from profiles.values import shown

LARGEST = 10**7  # of any degree or count: beyond it nobody means it
SHAPE = ("hidden", "layers", "heads", "kv_heads", "ffn", "vocab")

_PRECISION_ALIASES = {"float8": "fp8", "bfloat16": "bf16", "float16": "fp16", "half": "fp16"}
_TRUE, _FALSE = ("true", "yes", "1", "on", "1.0"), ("false", "no", "0", "off", "0.0")


@dataclass(frozen=True)
class TrainingConfiguration:
    """One layout, understood; see :class:`costmodels.training.layouts.TrainingLayouts` for the degrees."""

    model: TrainedModel
    places: tuple[StagePlace, ...]  # in the order of the pipeline
    framework: TrainingFramework
    precision: str
    sequence: int
    mode: str
    optimizer: str
    mtp: int
    tp: int
    pp: int
    vpp: int
    dp: int
    cp: int
    ep: int
    etp: int
    sharding: int
    shard_ranks: int
    micro_batch: int
    microbatches: int
    global_batch: int
    sequence_parallel: bool
    schedule: int
    selective: int
    recomputed: int | None  # layers of each stage; None: all
    attention: int
    split: tuple[int, ...]  # layers of each virtual stage, in the order of the model
    defaults: tuple[str, ...]

    @property
    def gpu(self) -> Gpu:
        """Of the first stage, and of all where there is one place."""
        return self.places[0].gpu

    @property
    def gpus(self) -> int:
        return self.tp * self.pp * self.dp * self.cp

    @property
    def group(self) -> tuple[object, ...]:
        """Configurations of one group are predicted together."""
        return (
            id(self.model), self._site, self.framework.label, self.precision, self.sequence, self.mode, self.optimizer,
            self.mtp,
        )  # fmt: skip

    @property
    def _site(self) -> tuple[object, ...]:
        keys = tuple(place.key for place in self.places)
        return keys if len(keys) > 1 else keys[0][:3]  # of one place the number of stages does not matter


_STAGES = r"[0-9]{1,5}(\*[0-9]{1,4})?"  # layers of a stage, or of some in a row


def stages_text(split: Sequence[int]) -> str:
    """Layers of each stage, those in a row that are alike as ``12*3``: as ``stage_layers`` reads it."""
    runs = [(layers, len(list(same))) for layers, same in groupby(split)]
    return "|".join(f"{layers}*{times}" if times > 1 else str(layers) for layers, times in runs)


def column_names(names: Sequence[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """(understood name of each column, columns that are kept and not understood).

    Raises:
        InputError: a column is there twice, or is nearly one that is understood and absent.
    """
    understood: dict[str, str] = {}
    strangers = []
    for name in names:
        meant = ALIASES.get(name, name)
        if meant in COLUMNS:
            if meant in understood.values():
                raise InputError(f"{name}: the column is there twice", f"keep one of {name} and {meant}")
            understood[name] = meant
        else:
            strangers.append(name)
    for name in strangers:
        free = [known for known in (*COLUMNS, *ALIASES) if ALIASES.get(known, known) not in understood.values()]
        close = difflib.get_close_matches(name.casefold(), free, n=1, cutoff=0.8)
        if close:
            raise InputError(f"{name}: the column is not known", f"nearest: {close[0]}; rename it, or leave it out")
    return understood, tuple(strangers)


class HardwareNames:
    """Hardware by name, each name looked up once: rows of a table repeat them."""

    def __init__(self, catalogue: Catalogue = SHIPPED) -> None:
        self.catalogue = catalogue
        self.gpu = cache(self._gpu)
        self.fabric = cache(catalogue.find_fabric)

    def _gpu(self, name: str) -> Gpu:
        """The GPU type that ``name`` names, itself or by the server that it comes in (DGX-H100)."""
        try:
            return self.catalogue.find_gpu(name)
        except UnknownName as unknown:
            try:
                return self.catalogue.find_gpu(self.catalogue.find_node(name).gpu)
            except UnknownName:
                raise unknown from None

    def node(self, gpu: Gpu) -> Node:
        return self.catalogue.default_node(gpu)


_SHIPPED = HardwareNames()


def read_configuration(
    values: Mapping[str, str],
    names: HardwareNames = _SHIPPED,
    *,
    find_model: Callable[[str], TrainedModel] = trained_model,
) -> TrainingConfiguration:
    """The layout that ``values`` (understood names of columns → text, blank where nothing is said) describe.
    ``find_model``: what ``model`` names.

    Raises:
        InputError: beginning with the column's name.
    """
    return _Reader(values, names, find_model).read()


class _Reader:
    def __init__(
        self, values: Mapping[str, str], names: HardwareNames, find_model: Callable[[str], TrainedModel]
    ) -> None:
        self.names = names
        self.values = {name: text.strip() for name, text in values.items()}
        self.find_model = find_model
        self.defaults: list[str] = []

    # -------------------------------------------------------------- cells

    def text(self, name: str) -> str:
        return self.values.get(name, "")

    def default(self, name: str, value: object) -> None:
        self.defaults.append(f"{name}={value}")

    def whole(self, name: str, default: int | None, least: int = 1) -> int:
        """A whole number; 8 and 8.0 are both written for it."""
        text = self.text(name)
        if not text:
            if default is None:
                raise InputError(f"{name}: is missing", f"give {name}")
            self.default(name, default)
            return default
        if not re.fullmatch(r"[+-]?[0-9]+(\.0*)?", text) or len(text) > 20:
            raise InputError(f"{name}: {shown(text)} is not a whole number", f"give a whole number from {least} on")
        value = int(text.partition(".")[0])
        if not least <= value <= LARGEST:
            raise InputError(f"{name}: {value} is not between {least} and {LARGEST:,}", f"correct {name}")
        return value

    def choice(self, name: str, known: Sequence[str], default: str, aliases: Mapping[str, str] | None = None) -> str:
        text = self.text(name).casefold()
        text = (aliases or {}).get(text, text)
        if not text:
            self.default(name, default)
            return default
        if text not in known:
            raise UnknownName(name, self.text(name), known, f"choose from {', '.join(known)}")
        return text

    # -------------------------------------------------------------- the whole

    def read(self) -> TrainingConfiguration:
        model = self._model()
        pools = self._pools(self._required("gpu"))
        framework = self._framework()
        precision = self.choice("precision", PRECISIONS, "bf16", _PRECISION_ALIASES)
        for pool in pools:
            check_precision(pool.gpu, precision)
        sequence = self.whole("seq_len", None)
        mode = self.choice("mode", MODES, "pretrain")
        optimizer = self.choice("optimizer", tuple(OPTIMIZERS), "adam")
        mtp = self.whole("mtp", 0, 0)
        if mtp > model.mtp_layers:
            raise InputError(
                f"mtp: {mtp} multi-token-prediction layers; {model.name} has {model.mtp_layers}", "leave mtp blank"
            )
        tp, pp, vpp, dp, cp = self._degrees(sum(pool.gpus for pool in pools))
        ep, etp = self._expert_degrees(model, framework, tp)
        sharding, shard_ranks = self._sharding(framework, dp * cp)
        micro_batch, microbatches, global_batch = self._batch(framework, dp, pp)
        parallel = self._sequence_parallel(framework, tp, model)
        schedule = self._schedule(framework, pp, vpp)
        selective, recomputed = self._recompute(framework)
        attention = ATTENTION.index(self.choice("attention", framework.attention, str(framework.defaults["attention"])))
        return TrainingConfiguration(
            model, self._places(pools, tp * cp * dp, pp), framework, precision, sequence, mode, optimizer, mtp,
            tp, pp, vpp, dp, cp, ep, etp, sharding, shard_ranks, micro_batch, microbatches, global_batch, parallel,
            schedule, selective, recomputed, attention, self._split(model, pp, vpp), tuple(self.defaults),
        )  # fmt: skip

    def _required(self, name: str) -> str:
        if not self.text(name):
            raise InputError(f"{name}: is missing", f"give {name}")
        return self.text(name)

    def _model(self) -> TrainedModel:
        name = self.text("model")
        shape = {part: self.whole(part, None) for part in SHAPE if self.text(part)}
        if name:
            model = self.find_model(name)
            if shape:
                part = next(iter(shape))
                raise InputError(f"{part}: has no effect beside model {shown(name)}", "give the model or its shape")
            return model
        missing = [part for part in ("hidden", "layers", "heads", "ffn", "vocab") if part not in shape]
        if missing:
            raise InputError(
                "model: is missing" if len(missing) == 5 else f"{missing[0]}: is missing",
                "give model, or hidden, layers, heads, kv_heads, ffn and vocab of a llama model",
            )
        return trained_model("llama:" + ",".join(f"{part}={value}" for part, value in shape.items()))

    def _pools(self, text: str) -> tuple[NamedPool, ...]:
        """Those that ``gpu`` names; one without a number of GPUs where it names a type alone."""
        counted = is_pools(text)
        if counted:
            pools = named_pools(text, self.names.catalogue)
        else:
            gpu = self.names.gpu(text)
            node = self.names.node(gpu)
            pools = (NamedPool(gpu, 0, node.gpus, node.default_fabric),)
        per_node, fabric = (self.text(name) for name in ("gpus_per_node", "fabric"))
        if not counted and not per_node:
            self.default("gpus_per_node", pools[0].gpus_per_node)
        if not fabric:
            self.default("fabric", "+".join(dict.fromkeys(pool.fabric for pool in pools)))
        if per_node:
            pools = tuple(replace(pool, gpus_per_node=self.whole("gpus_per_node", None)) for pool in pools)
        return tuple(replace(pool, fabric=fabric) for pool in pools) if fabric else pools

    def _places(self, pools: tuple[NamedPool, ...], ranks: int, pp: int) -> tuple[StagePlace, ...]:
        held = stages_in(pools, ranks) if len(pools) > 1 else (pp,)
        return tuple(
            StagePlace(pool.gpu, pool.gpus_per_node, self.names.fabric(pool.fabric), stages)
            for pool, stages in zip(pools, held, strict=True)
        )

    def _framework(self) -> TrainingFramework:
        text = self.text("framework").casefold()
        if not text:
            self.default("framework", "megatron")
        return find_training_framework(text or "megatron")

    def _degrees(self, named: int) -> tuple[int, int, int, int, int]:
        """``named``: the GPUs that ``gpu`` names, 0 where it names none."""
        tp, pp, vpp, cp = (self.whole(name, 1) for name in ("tp", "pp", "vpp", "cp"))
        asked = self.whole("num_gpus", None) if self.text("num_gpus") else named or None
        if named and asked != named:
            raise InputError(f"num_gpus: {asked} is not the {named:,} GPUs that gpu names", "leave one of them out")
        if not self.text("dp") and asked is not None:
            if asked % (tp * pp * cp):
                raise InputError(
                    f"num_gpus: {asked} is not a multiple of tp {tp} × pp {pp} × cp {cp} = {tp * pp * cp}",
                    "correct one of them; num_gpus = tp·pp·dp·cp",
                )
            dp = asked // (tp * pp * cp)
            self.default("dp", dp)
        else:
            dp = self.whole("dp", 1)
        if asked is not None and asked != tp * pp * dp * cp:
            raise InputError(
                f"num_gpus: {asked} is not tp {tp} × pp {pp} × dp {dp} × cp {cp} = {tp * pp * dp * cp}",
                "correct one of them; dp excludes cp and contains ep",
            )
        return tp, pp, vpp, dp, cp

    def _expert_degrees(self, model: TrainedModel, framework: TrainingFramework, tp: int) -> tuple[int, int]:
        ep = self.whole("ep", 1)
        # Megatron-Core splits experts as it splits the rest; recipes with expert parallelism leave them whole.
        splits = framework.expert_tp_default == "tp" and model.experts is not None and ep == 1
        default = tp if splits else 1
        etp = self.whole("moe_tp", default)
        if model.experts is None and (ep > 1 or etp > 1):
            name = "ep" if ep > 1 else "moe_tp"
            raise InputError(f"{name}: {max(ep, etp)}, but {model.name} has no experts", f"leave {name} blank")
        return ep, etp

    def _sharding(self, framework: TrainingFramework, ranks: int) -> tuple[int, int]:
        text = self.text("sharding").casefold()
        if not text:
            self.default("sharding", framework.defaults["sharding"])
            return int(framework.defaults["sharding"]), ranks
        hybrid = re.fullmatch(r"hybrid:([0-9]{1,7})(\.0)?", text)
        if hybrid:
            group = int(hybrid[1])
            if not group or ranks % group:
                raise InputError(
                    f"sharding: hybrid group of {group} does not divide dp × cp = {ranks}", "choose a divisor of it"
                )
            return max(int(framework.defaults["sharding"]), 1), group
        if not re.fullmatch(r"[0-3](\.0)?", text):
            raise InputError(f"sharding: {shown(text)} is not known", "write 0, 1, 2, 3 or hybrid:N")
        return int(text[0]), ranks

    def _batch(self, framework: TrainingFramework, dp: int, pp: int) -> tuple[int, int, int]:
        """(sequences of a micro-batch, micro-batches, of the global batch)."""
        micro = self.whole("micro_batch", int(framework.defaults["micro_batch"]))
        total = self.whole("global_batch", dp * micro)
        each = dp * micro
        if total % each:
            below, above = total // each * each, -(-total // each) * each
            nearest = f"{below:,} or {above:,}" if below else f"{above:,}"
            raise InputError(
                f"global_batch: {total} is not a multiple of dp {dp} × micro_batch {micro} = {each}",
                f"nearest that is: {nearest}",
            )
        count = total // each
        if framework.pipeline_splits_batch and pp > 1 and count == 1 and micro % pp == 0:
            self.default("micro_batch", f"{micro // pp} in each of {pp} pipeline micro-batches")
            return micro // pp, pp, total
        return micro, count, total

    def _sequence_parallel(self, framework: TrainingFramework, tp: int, model: TrainedModel) -> bool:
        text = self.text("sequence_parallel").casefold()
        if text in _TRUE:
            return tp > 1  # of one rank there is nothing to split
        if text in _FALSE:
            return False
        if text:
            raise InputError(f"sequence_parallel: {shown(text)} is neither true nor false", "write true or false")
        said = bool(framework.defaults["sequence_parallel"]) or model.experts is not None
        if tp > 1:
            self.default("sequence_parallel", str(said).lower())
        return said and tp > 1

    def _schedule(self, framework: TrainingFramework, pp: int, vpp: int) -> int:
        default = "interleaved" if vpp > 1 else str(framework.defaults["schedule"])
        text = self.choice("schedule", SCHEDULES, default)
        if pp > 1 and text not in framework.schedules:
            raise InputError(
                f"schedule: {framework.full_name} has no {text}", f"choose from {', '.join(framework.schedules)}"
            )
        if text == "1f1b" and vpp > 1:
            text = "interleaved"  # what 1F1B over virtual stages is called
            self.default("schedule", "interleaved (1f1b with vpp)")
        if (text == "interleaved") != (vpp > 1) and pp > 1:
            raise InputError(f"schedule: {text} with vpp {vpp}", "interleaved means vpp of 2 or more, and only it does")
        return SCHEDULES.index(text)

    def _recompute(self, framework: TrainingFramework) -> tuple[int, int | None]:
        """(bits of selective parts, layers of each stage that are recomputed whole; None: all of them)."""
        text = self.text("recompute").casefold().replace(" ", "")
        if not text:
            text = str(framework.defaults["recompute"])
            self.default("recompute", text)
        if text in ("none", "no", "false"):
            return 0, 0
        if text == "full":
            return 0, None
        if some := re.fullmatch(r"full:([0-9]{1,5})", text):
            return 0, int(some[1])
        head, _, parts = text.partition(":")
        if head != "selective":
            raise InputError(
                f"recompute: {shown(text)} is not known", "write none, full, full:LAYERS or selective:part+part"
            )
        if not framework.recompute:
            raise InputError(f"recompute: {framework.full_name} has no selective recomputation", "write none or full")
        bits = 0
        for part in parts.split("+") if parts else framework.recompute[:1]:
            if part not in framework.recompute:
                raise InputError(
                    f"recompute: {framework.full_name} cannot recompute {shown(part)}",
                    f"choose from {', '.join(framework.recompute)}",
                )
            bits |= 1 << RECOMPUTED.index(part)
        return bits, 0

    def _split(self, model: TrainedModel, pp: int, vpp: int) -> tuple[int, ...]:
        stages = pp * vpp
        text = self.text("stage_layers")
        if not text:
            split = default_split(model.layers, stages)
            if len(set(split)) > 1:
                self.default("stage_layers", stages_text(split))
            return split
        if not re.fullmatch(rf"{_STAGES}([|/ ]{_STAGES})*", text):
            raise InputError(
                f"stage_layers: {shown(text)} is not understood",
                "write layers of each stage: 11|12|12|11, or 11|12*2|11",
            )
        parts = [part.partition("*") for part in re.split(r"[|/ ]", text)]
        runs = [(int(layers), int(times or 1)) for layers, _, times in parts]
        count, held = sum(times for _, times in runs), sum(layers * times for layers, times in runs)
        if (count, held) != (stages, model.layers):
            raise InputError(
                f"stage_layers: {count} stages of {held} layers, not {stages} of {model.layers}",
                "give the layers of every (virtual) stage, in the order of the model",
            )
        return tuple(layers for layers, times in runs for _ in range(times))
