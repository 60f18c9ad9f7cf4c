"""Every family of operations in every table: forgetting one is found by name, and no forgotten one costs nothing."""

from __future__ import annotations

import dataclasses
import inspect
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import toy_family
from toy_family import SCAN, SCAN_TABLE, TOY, ToyKind, ToyMixer

from api.cli.commands.profile import import_
from costmodels.kernels import features
from costmodels.kernels.cost_model import CostModel, unseen_spreads
from costmodels.kernels.error_process import coordinates, priors
from costmodels.models import architecture
from costmodels.models.architecture import Architecture, DenseFeedForward, LayerGroup
from costmodels.models.images import EncodedImage
from costmodels.models.precision import choose_precision
from costmodels.models.registry import find_architecture, registered
from costmodels.operations.encoder import ask_images
from costmodels.operations.family import OperationFamily
from costmodels.operations.gemm import GEMM
from costmodels.operations.kernel import Kernel, StepPart
from costmodels.operations.layers import AttentionKind, FeedForwardKind, LayerKind
from costmodels.operations.layouts import Layouts
from costmodels.operations.questions import Batch, LayerStep, Split, StepWork
from costmodels.operations.registry import SHIPPED, Families, families, reckoning_with
from costmodels.operations.roofline import CODES, ROUTING_SKEW, Hardware
from costmodels.serving.frameworks.calibration import NEUTRAL, Part
from costmodels.serving.frameworks.framework import find_framework
from costmodels.serving.frameworks.names import framework_names
from costmodels.serving.memory import Loaded, StepLimits, engine_memory
from costmodels.serving.served_model import ServedModel
from costmodels.step.communication import Network
from costmodels.step.memory import kv_bytes_per_sequence, weights_bytes
from costmodels.step.operators import step_work
from planner.serving.layouts import Restrictions, legal_layouts
from profiles import measurements
from profiles.collect.operations import GROUPS
from profiles.collect.operations.grids import table
from profiles.errors import DataError, UnknownName, Unsupported
from profiles.hardware import find_fabric, find_gpu
from profiles.importers import importers
from profiles.measurements import OPERATIONS
from profiles.packs import build
from profiles.store import ProfileStore
from profiles.values import one_of
from tests.costmodels.synthetic import GRIDS, questions

KERNELS = SHIPPED.kernels
LAYOUTS = Layouts.of([(1, 1, 1, 1, 1), (4, 1, 1, 4, 1), (2, 2, 1, 2, 1)])
WIDE_LAYOUTS = Layouts.of([(1, 1, 8, 8, 1, exchange, 0, 0, 1, 0) for exchange in (1, 2, 3)])
ONE = np.ones(len(LAYOUTS), np.int64)
MIXED = Batch(ONE, 512 * ONE, 0 * ONE, 16 * ONE, 1000 * ONE, expert_tokens=528.0 * ONE)
TOY_MODEL = dataclasses.replace(
    find_architecture("Qwen3-32B"),
    name="made/toy",
    layer_groups=(
        LayerGroup(3, ToyMixer(16, 64), DenseFeedForward(1024)),  # type: ignore[arg-type]
        find_architecture("Qwen3-32B").layer_groups[0],
    ),
)


def layers_of(model: Architecture) -> list[Any]:
    return [layer for group in model.layer_groups for layer in (group.attention, group.feed_forward)]


MODELS = [find_architecture(each.name) for each in registered()]
BUNDLED = {layer: model for model in MODELS for layer in layers_of(model)}


@pytest.mark.parametrize("name", KERNELS)
class TestEachOperation:
    """In each table that has something to say of it."""

    def test_has_a_table_of_measurements(self, name: str) -> None:
        assert OPERATIONS[name].predicted
        assert KERNELS[name].missing() == []

    def test_texts_of_its_table_have_codes(self, name: str) -> None:
        for column in OPERATIONS[name].shape:
            assert set(column.levels) <= set(CODES.get(column.name, ())), column.name
            assert column.kind != "str" or column.name in CODES, column.name

    def test_is_in_a_part_of_a_step(self, name: str) -> None:
        assert KERNELS[name].part in get_args(StepPart)
        times = sum(operations.count(name) for operations in SHIPPED.parts.values())
        assert times == (0 if KERNELS[name].part == "communication" else 1)

    def test_has_a_factor_in_every_calibration(self, name: str) -> None:
        assert KERNELS[name].factor in (*get_args(Part), "")
        for calibration in (NEUTRAL, *(find_framework(each).calibration for each in framework_names())):
            assert np.all(calibration.factor(name, np.array([0, 1])) > 0)

    def test_has_an_error_where_a_gpu_was_not_measured(self, name: str) -> None:
        assert 0 < unseen_spreads()[name] < 2

    def test_has_errors_that_rows_correct(self, name: str) -> None:
        assert len(priors(name).unseen.lengths) == len(priors(name).repeat.lengths) == len(coordinates(name))

    def test_has_questions_in_the_synthetic_world(self, name: str) -> None:
        assert name in GRIDS, f"no shapes of {name} in GRIDS of tests/costmodels/synthetic.py"
        assert {"num_gpus", *GRIDS[name]} == set(KERNELS[name].columns)
        asked = questions(name, 3)
        hardware = Hardware.of([find_gpu("H200")])
        assert np.isfinite(features.matrix(KERNELS[name], asked, np.zeros(3, np.int64), hardware)).all()

    def test_is_asked_by_a_layer_or_the_network(self, name: str) -> None:
        asked = KERNELS[name].part == "communication" or name in _asked_by_bundled_models()
        assert asked, f"no bundled model (costmodels/models/architectures) asks for {name}"


@cache
def _asked_by_bundled_models() -> set[str]:
    out: set[str] = set()
    for model in MODELS:
        work = step_work(model, choose_precision(model), LAYOUTS, MIXED, "balanced")
        if model.is_moe:
            out |= set(step_work(model, choose_precision(model), WIDE_LAYOUTS, MIXED, "balanced").asked)
        if model.vision is not None:
            step = LayerStep(Split(model.hidden, choose_precision(model), LAYOUTS), MIXED, "balanced", work)
            ask_images(step, model.vision, EncodedImage(1, 1024, 256), np.ones(len(LAYOUTS)))
        out |= set(work.asked)
    return out


class TestTables:
    """Name no operation that is not there, and leave none out."""

    def test_what_is_measured_to_be_predicted_is_predicted(self) -> None:
        tables = [name for name, operation in OPERATIONS.items() if operation.predicted]
        assert set(tables) == set(KERNELS)
        assert tables == list(KERNELS), "tables stand in the order of the families in costmodels/operations/registry.py"

    def test_levels_of_routing_have_sizes(self) -> None:
        assert len(ROUTING_SKEW) == len(CODES["routing"])

    def test_the_synthetic_world_has_all(self) -> None:
        assert set(GRIDS) == set(KERNELS)

    def test_the_harness_measures_operations_of_the_schema(self) -> None:
        measured = {operation for operations in GROUPS.values() for operation in operations}
        assert measured <= set(OPERATIONS)
        assert table()

    def test_the_pack_is_thinned_by_columns_of_the_schema(self) -> None:
        for listed in (build.DROPPED, build.KEPT):
            for operation, columns in listed.items():
                assert set(columns) <= set(OPERATIONS[operation].shape_names)
        assert {out.operation for out in build.LEFT_OUT} <= set(OPERATIONS)

    def test_the_help_of_imports_lists_the_formats(self) -> None:
        listed = inspect.signature(inspect.unwrap(import_), eval_str=True).parameters["format_name"]
        assert listed.annotation.__metadata__[0].help == f"{one_of(importers())}."


class TestLayers:
    """Each class of layer is of one kind, which knows all there is to say of it."""

    @pytest.mark.parametrize("name", ["Attention", "FeedForward"])
    def test_each_class_of_an_architecture_is_served(self, name: str) -> None:
        classes = get_args(getattr(architecture, name))
        served = {kind.layer for kind in SHIPPED.layers}
        assert [each.__name__ for each in classes if each not in served] == []

    @pytest.mark.parametrize("kind", SHIPPED.layers, ids=lambda kind: type(kind).__name__)
    def test_each_kind_is_in_a_bundled_model_and_says_what_it_takes(self, kind: LayerKind[Any]) -> None:
        layers = [layer for layer in BUNDLED if kind.serves(layer)]
        assert layers, f"no bundled model (costmodels/models/architectures) has a {kind.layer.__name__}"
        for layer in layers:
            model = BUNDLED[layer]
            split = Split(model.hidden, choose_precision(model), LAYOUTS)
            has_any = layer.parameters(model.hidden) > 0
            weights = sum(kind.weights_bytes(split, layer))
            assert np.all((np.asarray(weights) > 0) == has_any)
            assert bool(list(kind.rules(layer, split.precision))) == has_any
            if isinstance(kind, AttentionKind):
                kept = kind.cache_bytes(split, layer, 2, np.full(len(LAYOUTS), 1000.0))
                assert kept.shape == (len(LAYOUTS),)
                borrows = isinstance(layer, architecture.GroupedQueryAttention) and layer.shared_cache
                assert np.all((kept > 0) == (has_any and not borrows))
            else:
                assert isinstance(kind, FeedForwardKind)
                needed = kind.activations(split, layer)
                assert np.all((np.asarray(needed.widest + needed.grouped) > 0) == has_any)

    @pytest.mark.parametrize("kind", SHIPPED.layers, ids=lambda kind: type(kind).__name__)
    def test_each_kind_asks_for_what_it_weighs(self, kind: LayerKind[Any]) -> None:
        for layer in (layer for layer in BUNDLED if kind.serves(layer)):
            model, work = BUNDLED[layer], StepWork(len(LAYOUTS))
            split = Split(model.hidden, choose_precision(model), LAYOUTS)
            kind.ask(LayerStep(split, MIXED, "balanced", work), layer, 1)
            assert bool(work.asked) == (layer.parameters(model.hidden) > 0)

    @pytest.mark.parametrize("left_out", sorted(ToyKind.__abstractmethods__ | AttentionKind.__abstractmethods__))
    def test_a_kind_that_leaves_something_out_cannot_be_made(self, left_out: str) -> None:
        incomplete = type("Incomplete", (ToyKind,), {left_out: getattr(AttentionKind, left_out)})
        with pytest.raises(TypeError, match=left_out):
            incomplete()


@pytest.fixture
def bare(tmp_path: Path) -> ProfileStore:
    return ProfileStore.create(tmp_path / "bare", name="bare", version="1", attribution="none")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy's table is in the schema."""
    monkeypatch.setitem(measurements.OPERATIONS, SCAN.name, SCAN_TABLE)


@pytest.fixture
def added(measured: None) -> Iterator[Families]:
    """The toy family is one of the families."""
    more = SHIPPED.extended(TOY)
    with reckoning_with(more):
        yield more


def served(model: Architecture, store: ProfileStore) -> ServedModel:
    cost = CostModel(find_gpu("H200"), "vllm", store)
    network = Network(8, find_fabric("ib-400g"))
    return ServedModel(model, choose_precision(model), find_framework("vllm"), cost, network)


class TestAToyFamily:
    """Three files' worth of lines, and everything knows of it."""

    @pytest.mark.usefixtures("added")
    def test_is_asked_answered_and_counted_in_its_part_of_the_step(self, bare: ProfileStore) -> None:
        with_toy, without = (
            served(TOY_MODEL, bare),
            served(dataclasses.replace(TOY_MODEL, layer_groups=TOY_MODEL.layer_groups[1:]), bare),
        )
        found, plain = (each.step(LAYOUTS, MIXED, "balanced", calibration=NEUTRAL) for each in (with_toy, without))
        (asked,) = step_work(TOY_MODEL, with_toy.precision, LAYOUTS, MIXED, "balanced").asked[SCAN.name]
        own = with_toy.cost.estimate(SCAN.name, asked.columns).value * asked.count
        assert np.all(own > 0)
        np.testing.assert_allclose(found.parts["attention"] - plain.parts["attention"], own)
        assert np.all(found.latency.value > plain.latency.value + own)

    @pytest.mark.usefixtures("added")
    def test_takes_memory_and_keeps_a_state(self) -> None:
        precision = choose_precision(TOY_MODEL)
        rest = dataclasses.replace(TOY_MODEL, layer_groups=TOY_MODEL.layer_groups[1:])
        one = Layouts.of([(2, 1, 1, 1, 2)])
        more = weights_bytes(TOY_MODEL, precision, one) - weights_bytes(rest, precision, one)
        hidden = TOY_MODEL.hidden
        assert more == pytest.approx(3 * ((2 * 16 * 64 + 3 * 1024) * hidden * 2 / 2 + 2 * hidden * 2))
        kept = [kv_bytes_per_sequence(model, precision, one, 500)[0] for model in (TOY_MODEL, rest)]
        assert kept[0] - kept[1] == pytest.approx(3 * 16 * 64 * 4 / 2)
        whole = engine_memory(
            Loaded(TOY_MODEL, precision, find_framework("vllm"), find_gpu("H200")),
            one,
            StepLimits(2048 * ONE[:1], 1, 0.9),
        )
        assert whole.kv_bytes[0] > 0

    @pytest.mark.usefixtures("added")
    def test_has_rules_and_widths(self) -> None:
        precision = choose_precision(TOY_MODEL)
        layouts, rejected, _ = legal_layouts(TOY_MODEL, precision, find_framework("vllm"), Restrictions(32, 32))
        assert "16 attention heads do not divide by tp" in {each.reason for each in rejected}
        assert layouts.tp.max() <= 16
        families().require_measured_widths(TOY_MODEL)
        odd = LayerGroup(1, ToyMixer(16, 65), DenseFeedForward(1024))  # type: ignore[arg-type]
        with pytest.raises(Unsupported, match=r"a toy state of widths \(65,\)"):
            families().require_measured_widths(dataclasses.replace(TOY_MODEL, layer_groups=(odd,)))

    @pytest.mark.usefixtures("added")
    def test_goes_by_the_error_figures_of_a_relative_until_it_is_measured(self, bare: ProfileStore) -> None:
        assert unseen_spreads()[SCAN.name] == unseen_spreads()["gdn_decode"]
        mine, relative = priors(SCAN.name).unseen, priors("gdn_decode").unseen
        assert mine.offset == relative.offset
        lengths = dict(zip(coordinates(SCAN.name), mine.lengths, strict=True))
        assert lengths["batch"] == dict(zip(coordinates("gdn_decode"), relative.lengths, strict=True))["batch"]
        assert lengths["toy_heads"] == relative.lengths.min()

    @pytest.mark.usefixtures("added")
    def test_rows_laid_over_the_pack_correct_it(self, bare: ProfileStore, tmp_path: Path) -> None:
        own = ProfileStore.create(tmp_path / "own", name="own", version="1", attribution="none")
        gpu = np.zeros(4, np.int64)
        asked = {"dtype": np.ones(4, np.int64), "num_gpus": np.ones(4, np.int64)}
        asked |= {"batch": np.array([1, 8, 64, 512]), "toy_heads": np.full(4, 16)}
        base = features.base_us(SCAN, asked, gpu, Hardware.of([find_gpu("H200")]))
        rows = {name: values for name, values in asked.items() if name != "dtype"}
        own.add(
            SCAN.name,
            pd.DataFrame(rows).assign(
                gpu="H200", dtype="bf16", latency_us=3 * base, kernel="toy", framework="vllm", framework_version="1",
                source="tests", date="2026-01-01",
            ),
        )  # fmt: skip
        cost = CostModel(find_gpu("H200"), "vllm", bare, measured=(own,))
        np.testing.assert_allclose(cost.estimate(SCAN.name, asked).value, 3 * base)
        between = {**asked, "batch": np.array([2, 16, 128, 256])}
        plain = CostModel(find_gpu("H200"), "vllm", bare).estimate(SCAN.name, between).value
        assert np.all(cost.estimate(SCAN.name, between).value > 1.5 * plain)

    def test_is_seen_in_its_own_context_alone(self, measured: None) -> None:
        seen: list[bool] = []
        with reckoning_with(SHIPPED.extended(TOY)):
            assert SCAN.name in families().kernels
            other = threading.Thread(target=lambda: seen.append(SCAN.name in families().kernels))
            other.start()
            other.join()
        assert seen == [False]
        assert families() is SHIPPED
        assert SCAN.name not in SHIPPED.kernels


class TestNothingIsForgottenSilently:
    """What today would cost nothing, or be left out of the memory, raises."""

    def test_an_operation_without_a_table(self) -> None:
        with pytest.raises(ValueError, match=r"family toy: toy_scan has no table in profiles/operation_tables\.py"):
            SHIPPED.extended(TOY)

    @pytest.mark.usefixtures("measured")
    @pytest.mark.parametrize("field", ["group", "range", "near", "alike"])
    def test_a_column_that_the_table_lacks(self, field: str) -> None:
        value = {"near": {"sequences": 1.0}}.get(field, ("sequences",))
        wrong = dataclasses.replace(SCAN, **{field: value})  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=f"toy_scan: {field} names sequences"):
            SHIPPED.extended(OperationFamily("toy", (wrong,)))

    @pytest.mark.usefixtures("measured")
    @pytest.mark.parametrize("field", ["group", "range", "near"])
    def test_a_kernel_without_neighbours_shapes_or_ranges(self, field: str) -> None:
        with pytest.raises(ValueError, match=f"toy_scan: no {field}"):
            SHIPPED.extended(OperationFamily("toy", (dataclasses.replace(SCAN, **{field: ()}),)))  # type: ignore[arg-type]

    def test_a_table_of_what_is_not_predicted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(measurements.OPERATIONS, SCAN.name, dataclasses.replace(SCAN_TABLE, predicted=False))
        with pytest.raises(ValueError, match="toy_scan is marked"):
            SHIPPED.extended(TOY)

    def test_an_operation_in_two_families(self) -> None:
        with pytest.raises(ValueError, match="family again: operation gemm is in another family too"):
            SHIPPED.extended(OperationFamily("again", (GEMM,)))

    @pytest.mark.usefixtures("measured")
    def test_a_question_that_no_part_of_the_step_sums(self, bare: ProfileStore) -> None:
        with (
            reckoning_with(SHIPPED.extended(OperationFamily("layers alone", (), TOY.layers))),
            pytest.raises(LookupError, match="summed in no part of a step: toy_scan"),
        ):
            served(TOY_MODEL, bare).step(LAYOUTS, MIXED, "balanced")

    def test_a_layer_of_no_family(self, bare: ProfileStore) -> None:
        one = served(TOY_MODEL, bare)
        calls = (
            lambda: one.step(LAYOUTS, MIXED, "balanced"),
            lambda: one.memory(LAYOUTS, 2048 * ONE),
            lambda: one.kv_bytes(LAYOUTS, 1000),
            lambda: weights_bytes(TOY_MODEL, one.precision, LAYOUTS),
            lambda: legal_layouts(TOY_MODEL, one.precision, one.framework, Restrictions(8, 8)),
            lambda: families().require_measured_widths(TOY_MODEL),
        )
        for call in calls:
            with pytest.raises(Unsupported, match="ToyMixer") as refused:
                call()
            assert "plan models" in refused.value.hint

    def test_a_layer_in_the_other_half(self) -> None:
        with pytest.raises(Unsupported, match="DenseFeedForward is a attention"):
            families().attention(DenseFeedForward(8))

    @pytest.mark.usefixtures("measured")
    def test_a_layer_of_two_families(self) -> None:
        twice = SHIPPED.extended(TOY, OperationFamily("again", (), TOY.layers))
        with pytest.raises(ValueError, match="ToyMixer is served twice, by ToyKind and ToyKind"):
            twice.attention(ToyMixer(1, 1))

    @pytest.mark.parametrize("columns", [{"m": 1, "n": 2}, {"m": 1, "n": 2, "k": 3, "l": 4}])
    def test_a_question_with_other_columns_than_its_table(self, columns: dict[str, int]) -> None:
        with pytest.raises(ValueError, match="gemm: columns"):
            StepWork(1).ask(GEMM, 1, dtype=0, **columns)

    @pytest.mark.usefixtures("measured")
    @pytest.mark.parametrize("figures", [unseen_spreads, lambda: priors.__wrapped__(SCAN.name)], ids=["unseen", "few"])
    def test_an_operation_without_error_figures(self, figures: Any) -> None:
        without: Kernel = dataclasses.replace(SCAN, figures_of="")
        with (
            reckoning_with(SHIPPED.extended(OperationFamily("toy", (without,), (toy_family.ToyKind(),)))),
            pytest.raises(DataError, match="toy_scan"),
        ):
            figures()

    def test_an_operation_that_nobody_knows(self) -> None:
        with pytest.raises(UnknownName, match="operation: 'toy_scan'"):
            families().kernel("toy_scan")
        with pytest.raises(UnknownName, match="operation: 'toy_scan'"):
            NEUTRAL.factor("toy_scan", np.ones(1, np.int64))
