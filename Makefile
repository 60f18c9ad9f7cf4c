# `make plan` and `make test` set up everything they need on a machine with Python 3.11, pip, make and gcc.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: plan test test-slow lint docs-check diff-plans bench bench-experts bench-fleet bench-memory bench-order bench-power
.PHONY: bench-hints bench-promises bench-service bench-silicon bench-training bench-wide-ep pack clean

plan: $(STAMP)
	$(BIN)/plan --model Qwen/Qwen3-32B --cluster 16xH200 --slo ttft=1s,tpot=30ms --workload isl=4000,osl=500

test: $(STAMP)
	$(BIN)/pytest -n auto --dist loadfile

test-slow: $(STAMP)
	$(BIN)/pytest -m slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Every kind of answer, old against new: what moved since tests/benchmarks/diff_plans/expected.json was written.
diff-plans: $(STAMP)
	$(BIN)/python -m tests.benchmarks.diff_plans

# Whether README and docs say what the program does; runs the commands that they show.
docs-check: $(STAMP)
	$(BIN)/python -m tests.docs_check --run

bench: $(STAMP)
	$(BIN)/python -m tests.benchmarks.kernels --framework vllm
	$(BIN)/python -m tests.benchmarks.sampling
	$(BIN)/python -m tests.benchmarks.simulator
	$(BIN)/python -m tests.benchmarks.loops
	$(BIN)/python -m tests.benchmarks.plans
	$(BIN)/python -m tests.benchmarks.steps
	$(BIN)/python -m tests.benchmarks.engine
	$(BIN)/python -m tests.benchmarks.published
	$(BIN)/python -m tests.benchmarks.readme

# Whether plans keep their word: 200 random requests, replayed, and the ends of 60 plans' intervals. Hours.
bench-promises: $(STAMP)
	$(BIN)/python -m tests.benchmarks.promises

# Whether hints work: refused requests, and every way out that they name followed to the letter. Minutes.
bench-hints: $(STAMP)
	$(BIN)/python -m tests.benchmarks.hints

# Memory of engines against what they log when they start, each model left out in turn.
bench-memory: $(STAMP)
	$(BIN)/python -m tests.benchmarks.memory

# A row of servers: every policy of caps on POLCA's row, and vLLM under power caps. Ten minutes.
bench-power: $(STAMP)
	$(BIN)/python -m tests.benchmarks.power
bench-wide-ep: $(STAMP)
	$(BIN)/python -m tests.benchmarks.wide_ep

.PHONY: test-launchers test-launchers-real

# Every cell of frameworks and platforms that a plan is exported to, counted.
test-launchers: $(STAMP)
	$(BIN)/python -m tests.benchmarks.launchers.matrix

FRAMEWORKS = "$$($(BIN)/python -c 'import platformdirs; print(platformdirs.user_cache_dir("shardwright"))')/launchers"

TRAINERS = torchtitan==0.3.0 spmd_types==0.2.3 torchdata torch_checkpointing "datasets<4.8" einops dill multiprocess xxhash pandas pyarrow
TRAINERS += python-dateutil pytz tzdata six fsspec tyro docstring_parser typeguard typing_extensions
TRAINERS += megatron-core==0.16.1 megatron-bridge==0.3.1 omegaconf hydra-core antlr4-python3-runtime==4.9.3

# Command lines of 500 random plans through the real parsers and configurations, each in an environment of its own.
test-launchers-real: $(STAMP)
	$(BIN)/python -m tests.benchmarks.launchers.real vllm 0.33.0
	$(BIN)/python -m tests.benchmarks.launchers.real sglang 0.5.23
	test -x .routers/bin/python || $(PYTHON) -m venv .routers
	.routers/bin/pip install --quiet vllm-router==0.1.17 sglang-router==0.3.2
	$(BIN)/python -m tests.benchmarks.launchers.fronts --routers .routers/bin/python
	test -x .dynamo/bin/python || $(PYTHON) -m venv .dynamo
	.dynamo/bin/pip install --quiet --no-deps ai-dynamo==1.6.1 ai-dynamo-runtime==1.6.1
	.dynamo/bin/pip install --quiet "pydantic<=2.13.5" uvloop "aiohttp<4" msgspec "prometheus-client<1" pyzmq zstandard transformers
	$(BIN)/python -m tests.benchmarks.launchers.graphs --dynamo .dynamo/bin/python --vllm $(FRAMEWORKS)/vllm-0.33.0/bin/python \
	  --sglang $(FRAMEWORKS)/sglang-0.5.23/bin/python
	test -d .trainers/new || $(BIN)/python -m pip install --quiet --no-deps --target .trainers/new $(TRAINERS)
	test -d .trainers/old || $(BIN)/python -m pip install --quiet --no-deps --target .trainers/old torchtitan==0.2.2
	$(BIN)/python -m tests.benchmarks.launchers.trainers --python $(FRAMEWORKS)/vllm-0.33.0/bin/python --packages .trainers/new --older .trainers/old
	test -x .sky/bin/python || ($(PYTHON) -m venv .sky && .sky/bin/pip install --quiet skypilot==0.14.1)
	test -x .ray/bin/python || ($(PYTHON) -m venv .ray && .ray/bin/pip install --quiet "ray[serve]==2.60.0")
	$(BIN)/python -m tests.benchmarks.launchers.platforms --sky .sky/bin/python --ray .ray/bin/python \
	  --vllm $(FRAMEWORKS)/vllm-0.33.0/bin/python
	$(BIN)/python -m tests.benchmarks.launchers.worlds

bench-experts: $(STAMP)
	$(BIN)/python -m tests.benchmarks.experts_balance
	$(BIN)/python -m tests.benchmarks.experts_affinity

# Published training runs and measured memory; every table in-sample and with the source left out.
bench-training: $(STAMP)
	$(BIN)/python -m tests.benchmarks.training
	$(BIN)/python -m tests.benchmarks.readme

# Fleets: gaps and times of questions of several sizes, Mélange's formulation beside ours, random services replayed.
bench-fleet: $(STAMP)
	$(BIN)/python -m tests.benchmarks.fleets
	$(BIN)/python -m tests.benchmarks.fleets_apart

# Public end-to-end runs, ours and the peer's predictions; `calibrate` after the module's name refits the constants.
bench-silicon: $(STAMP)
	$(BIN)/pip install --quiet '.[silicon]'
	$(BIN)/python -m tests.benchmarks.silicon
	$(BIN)/python -m tests.benchmarks.readme

# How much of the error of two predictions is the same, from which `plan compare` tells how sure an order is.
bench-order: $(STAMP)
	$(BIN)/pip install --quiet '.[silicon]'
	$(BIN)/python -m tests.benchmarks.order

# The service on loopback: rates, latencies, cancels, fairness, memory, two instances; and with everything killed.
bench-service: $(STAMP)
	$(BIN)/python -m tests.benchmarks.service

# Rebuilds the shipped measurements and shows what thinning their grids costs. Needs the extra `silicon`.
pack: $(STAMP)
	$(BIN)/pip install --quiet '.[silicon]'
	$(BIN)/python -m profiles.packs.build
	$(BIN)/python -m tests.benchmarks.thinning

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	$(BIN)/python -m compileall -q api costmodels planner profiles  # where PYTHONDONTWRITEBYTECODE is set, too
	touch $(STAMP)

clean:
	rm -rf $(VENV) .diff_plans build *.egg-info .mypy_cache .ruff_cache .pytest_cache
