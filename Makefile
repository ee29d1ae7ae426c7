# The two commands a newcomer needs: make demo, make test.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
LOCK := .ci/requirements.lock
# Tests run in as many processes, by file; PYTEST_ARGS adds to it, e.g. make test PYTEST_ARGS="-k splits".
WORKERS ?= auto
PYTEST_ARGS ?=
PORT ?= 3000
# Random kills of make kill; SEED draws their times, so a failure can be repeated.
KILLS ?= 100
SEED ?= $(shell date +%s)

.DEFAULT_GOAL := help
.PHONY: help install demo test test-fast lint types imports verify tests kill cluster-test ui bench bench-growth bench-peers results results-external screenshots format clean fuzz external-envs external-cpa

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

install: $(VENV)/.installed ## Create .venv and install from the lock

$(VENV)/.installed: pyproject.toml $(LOCK)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(LOCK) -e ".[dev]"
	touch $@

demo: install ## Run the main job on the embedded data, print leaderboard and report
	$(BIN)/python -m perturbfm_assets.demo

test: install lint types imports verify tests ## Everything that CI runs

lint: install
	$(BIN)/ruff format --check perturbfm_core perturbfm_assets tests
	$(BIN)/ruff check perturbfm_core perturbfm_assets tests
	$(BIN)/codespell perturbfm_core perturbfm_assets tests docs README.md CHANGELOG.md

types: install
	$(BIN)/mypy

imports: install
	$(BIN)/lint-imports

verify: install
	$(BIN)/perturbfm splits verify --all

# Modules are compiled once for all processes that tests start, whatever the shell says of it.
tests test-fast: export PYTHONDONTWRITEBYTECODE =

# Tracing lines costs a third of the tests' CPU: only PERTURBFM_COVERAGE=1, as in .ci/run, measures coverage and asks for 90 %.
COVERAGE := $(if $(PERTURBFM_COVERAGE),-p pytest_cov --cov --cov-report=term --cov-fail-under=90)

tests: install
	OMP_NUM_THREADS=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $(BIN)/python -m pytest -q -p xdist -n $(WORKERS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
		$(COVERAGE) $(PYTEST_ARGS)

test-fast: install ## The quick part of the tests, for daily work (under two minutes)
	OMP_NUM_THREADS=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $(BIN)/python -m pytest -q -p xdist -n $(WORKERS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
		-m "not slow" $(PYTEST_ARGS)

kill: install ## Kill commands and Dagster runs at KILLS random times (default 100) and look at what they left
	PERTURBFM_KILLS=$(KILLS) PERTURBFM_KILL_SEED=$(SEED) OMP_NUM_THREADS=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $(BIN)/python -m pytest -q -s tests/kill tests/cli/test_killed.py tests/assets/test_server.py -k "kill" $(PYTEST_ARGS)

cluster-test: install ## A real Slurm and Postgres up and down: suites as job arrays, Dagster's runs as jobs, the nginx table (root; apt-get install slurm-wlm munge postgresql nginx-light)
	PERTURBFM_CLUSTER=1 OMP_NUM_THREADS=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $(BIN)/python -m pytest -q -rs tests/cluster tests/deploy $(PYTEST_ARGS)

# Seeded: a case is found again by its number. FUZZ_ARGS, e.g. --only yaml --keep /tmp/fuzz
FUZZ_CASES ?= 700
FUZZ_SEED ?= 0
FUZZ_ARGS ?=

fuzz: install ## Damage files of every format and read them by every verb that does
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz.runner --cases $(FUZZ_CASES) --seed $(FUZZ_SEED) $(FUZZ_ARGS)

ui: install ## Start the Dagster web UI on 127.0.0.1:$(PORT)
	# A home with our dagster.yaml: `dg` sends no telemetry, and no temporary home is left in the tree.
	mkdir -p .dagster && ln -sf ../dagster.yaml .dagster/dagster.yaml
	VIRTUAL_ENV="$(CURDIR)/$(VENV)" DAGSTER_HOME="$(CURDIR)/.dagster" $(BIN)/dg dev --host 127.0.0.1 --port $(PORT)

bench: install ## Run the benchmarks and record them under .benchmarks
	PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $(BIN)/python -m pytest -q -p pytest_benchmark.plugin -o addopts="" tests/benchmarks --ignore=tests/benchmarks/growth --benchmark-autosave $(PYTEST_ARGS)

# Sizes up to GROWTH_MAX (default: all, an hour on two idle cores); big files lie in GROWTH_DIR (default: the temporary folder).
GROWTH_JOBS ?= 2

bench-growth: install ## CPU-seconds and memory by number of cells, conditions and runs, with exponents; GROWTH_JOBS cases at a time, one thread each; tables in .benchmarks/growth
	PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $(BIN)/python -m pytest -q -p xdist -n $(GROWTH_JOBS) --dist worksteal -o addopts="" tests/benchmarks/growth $(PYTEST_ARGS)

# PerturBench is on no index: it is installed from a clone where there is one, and left out where there is none.
PERTURBENCH ?= third_party/perturbench
PEER_NAMES = cell_eval cell_eval2 pertpy $(if $(wildcard $(PERTURBENCH)/pyproject.toml),perturbench)

bench-peers: install $(PEER_NAMES:%=.venv-peers/%/.installed) ## The peers' own code beside ours on the same data, each in an environment of its own
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 PEERS="$(CURDIR)/.venv-peers" $(BIN)/python -m pytest -q -s -p pytest_benchmark.plugin -o addopts="" \
		tests/benchmarks/peers --benchmark-autosave $(PYTEST_ARGS)

results: install ## Write the README's results table and comparison of models from the leaderboard of runs/
	$(BIN)/perturbfm leaderboard refresh
	$(BIN)/perturbfm leaderboard results --into README.md

# A browser and the demo (some CPU minutes); pictures of the UI are those of its test.
SCREENSHOTS ?= .benchmarks/screenshots

screenshots: install ## Make the pictures of docs/images anew: look at each before it is committed
	mkdir -p $(SCREENSHOTS)/ui
	PERTURBFM_HOME=$(SCREENSHOTS)/home PERTURBFM_SPLIT_DIR=splits OMP_NUM_THREADS=1 $(BIN)/perturbfm demo
	PERTURBFM_SCREENSHOTS="$(CURDIR)/$(SCREENSHOTS)/ui" OMP_NUM_THREADS=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $(BIN)/python -m pytest -q tests/browser/test_dagster_ui.py -k launched
	PERTURBFM_SPLIT_DIR=splits OMP_NUM_THREADS=1 $(BIN)/python -m tests.browser.screenshots --home $(SCREENSHOTS)/home --ui $(SCREENSHOTS)/ui --out docs/images

# Environments of external models, kept between runs; STATE's licence forbids commercial use.
EXTERNAL_ENVS ?= $(HOME)/.cache/perturbfm/envs

external-envs: install ## Build the environments of GEARS, scGen and STATE (5 GB), which the slow tests of external models need
	for name in gears scgen state; do \
		PERTURBFM_ENVS="$(EXTERNAL_ENVS)" $(BIN)/perturbfm external env create $$name --accept-licence || exit 1; \
	done

external-cpa: install ## Build the environment of CPA (5.9 GB) and train it, alone and in the grid
	PERTURBFM_ENVS="$(EXTERNAL_ENVS)" $(BIN)/perturbfm external env create cpa --yes
	PERTURBFM_EXTERNAL=1 PERTURBFM_ENVS="$(EXTERNAL_ENVS)" OMP_NUM_THREADS=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $(BIN)/python -m pytest -q -rs tests/external tests/assets/test_external_models.py -k cpa $(PYTEST_ARGS)

results-external: install ## Run GEARS, scGen, CPA, STATE and PerturBench's networks on demo and simulations (hours of CPU), write the README's table of them
	PERTURBFM_ENVS="$(EXTERNAL_ENVS)" OMP_NUM_THREADS=1 $(BIN)/perturbfm suite run external
	$(BIN)/perturbfm leaderboard refresh
	$(BIN)/perturbfm leaderboard results --suite external --into README.md

# All packages are listed with their versions, so nothing is resolved; what a peer names but does not need is left out.
.venv-peers/%/.installed: tests/benchmarks/peers/%.txt
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<
	$(if $(filter perturbench,$*),$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps $(PERTURBENCH))
	touch $@

format: install ## Format and fix what can be fixed
	$(BIN)/ruff format perturbfm_core perturbfm_assets tests
	$(BIN)/ruff check --fix perturbfm_core perturbfm_assets tests

clean: ## Remove what tools cached (never data or runs)
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info htmlcov .coverage .coverage.*
