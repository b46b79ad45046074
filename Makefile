# `make` alone lists what there is. Each target sets up what it needs.
#
#   PROFILE=rpi4        a profile of firmware_profiles/
#   MODEL= WEIGHTS=     instead of the profile's own
#   RECIPE=             instead of each format's default; `python -m converter --list` lists them
#   CALIBRATION=DIR     photographs to calibrate with, instead of those that come with the weights
#   VERIFICATION=DIR    labelled photographs to check the artefacts with, likewise
#   TORCH_INDEX=URL     a package index to take torch from; without it pip decides, which may be a CUDA build of several GB

PYTHON_BASE ?= python3
VENV ?= .venv
PYTHON := $(VENV)/bin/python
PROFILE ?= host
MODEL ?=
WEIGHTS ?=
RECIPE ?=
CALIBRATION ?=
VERIFICATION ?=
TORCH_INDEX ?=
ARCH ?= $(shell uname -m)
DATA ?=
BUNDLE ?=
SOURCE ?=
KEY ?=
ARGS ?=
# Tests run in so many processes; ARGS="-n 0" runs them in one.
TEST_PROCESSES ?= auto

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup native convert run sign doctor demo test lint train eval recipes compare bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  profiles:         $(basename $(notdir $(sort $(wildcard firmware_profiles/*.yaml))))"

# The stamp holds what was installed, so that a changed pyproject.toml installs anew.
STAMP := $(VENV)/.installed

$(STAMP): pyproject.toml
	@command -v $(PYTHON_BASE) >/dev/null || { echo "error: $(PYTHON_BASE) not found; install Python 3.11 to 3.13" >&2; exit 1; }
	@$(PYTHON_BASE) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "error: $$($(PYTHON_BASE) --version) found; expected Python 3.11 to 3.13; pass PYTHON_BASE=" >&2; exit 1; }
	$(PYTHON_BASE) -m venv $(VENV)
	$(PYTHON) -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "torch==2.13.0"
	$(PYTHON) -m pip install --quiet --editable ".[host,dev]"
	@touch $@

setup: $(STAMP) native ## install the host's packages into .venv and build the native library

native: $(STAMP) ## build the ExecuTorch library (ARCH=aarch64 for a board)
	@$(PYTHON) -m device.runtimes.native.build --arch $(ARCH)

CONVERT := $(PYTHON) -m converter --profile $(PROFILE) $(if $(MODEL),--model $(MODEL)) $(if $(WEIGHTS),--weights $(WEIGHTS)) \
	$(if $(RECIPE),--recipe $(RECIPE)) $(if $(CALIBRATION),--calibration $(CALIBRATION)) \
	$(if $(VERIFICATION),--verification $(VERIFICATION))

# MODEL= and WEIGHTS= together, without BUNDLE=, mean eager fp32 alone.
EVALUATED := $(if $(BUNDLE),--bundle $(BUNDLE),$(if $(and $(MODEL),$(WEIGHTS)),,--bundle build/$(PROFILE))) \
	$(if $(MODEL),--model $(MODEL)) $(if $(WEIGHTS),--weights $(WEIGHTS))

convert: setup ## lower the network for PROFILE= into build/PROFILE/
	@$(CONVERT) $(ARGS)

run: setup ## run build/PROFILE/ on SOURCE=, or on the profile's camera
	@$(PYTHON) -m device.run --bundle build/$(PROFILE) $(if $(SOURCE),--source "$(SOURCE)",--camera) $(ARGS)

sign: setup ## sign build/PROFILE/ with the SSH key KEY=
	@test -n "$(KEY)" || { echo "error: KEY= is missing; expected an SSH private key, such as ~/.ssh/id_ed25519" >&2; exit 2; }
	@$(PYTHON) -m device.bundle sign build/$(PROFILE) --key $(KEY)

doctor: setup ## what works on this machine, what doesn't, and what to do
	@$(PYTHON) -m device.doctor $(ARGS)

demo: setup ## convert for this machine and run the daemon on photographs
	@$(PYTHON) -m converter --profile host
	@$(PYTHON) -m converter.data.samples --out build/demo/photographs
	@for runtime in litert executorch; do \
		$(PYTHON) -m device.run --bundle build/host --source images:build/demo/photographs --runtime $$runtime \
			--predictions build/demo/$$runtime.jsonl --telemetry build/demo/telemetry.sqlite && echo || exit; done
	@$(PYTHON) -m device.report build/demo/telemetry.sqlite --html build/demo/report.html
	@echo "labels of every photograph: build/demo/*.jsonl    of the conversion: build/host/report.html"

# A process that has nothing left to do takes over half of what another one still has: tests of one file mostly stay together.
PARALLEL := --numprocesses $(TEST_PROCESSES) --maxprocesses 8 --dist worksteal

test: setup ## run the tests (those of the emulated board: test-arm, test-board)
	@$(PYTHON) -m pytest --ignore=tests/board $(PARALLEL) $(ARGS)

lint: $(STAMP) ## ruff, mypy --strict, import-linter
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy
	@$(VENV)/bin/lint-imports

train: setup ## train MODEL= on the labelled folder DATA=
	@test -n "$(DATA)" || { echo "error: DATA= is missing; expected a folder with train/<class>/ and validation/<class>/" >&2; exit 2; }
	@$(PYTHON) -m converter.train --data $(DATA) $(if $(MODEL),--model $(MODEL)) $(ARGS)

eval: setup ## accuracy of eager, .pte and .tflite on the labelled folder DATA= (BUNDLE=build/PROFILE)
	@test -n "$(DATA)" || { echo "error: DATA= is missing; expected a folder with <label>/*.jpg, or validation/<label>/*.jpg" >&2; exit 2; }
	@$(PYTHON) -m converter.evaluate --data $(DATA) $(EVALUATED) $(ARGS)

recipes: setup ## what each quantisation recipe gives, in each format (MODEL=, WEIGHTS=)
	@$(PYTHON) -m converter.compare.recipes $(if $(MODEL),--model $(MODEL)) $(if $(WEIGHTS),--weights $(WEIGHTS)) $(ARGS)

compare: setup ## compare GhostNet and MobileNetV3 and check the article's claims (ARGS=--quick: those alone)
	@$(PYTHON) -m converter.compare $(ARGS)

bench: setup ## the benchmarks, as ratios in one run
	@$(PYTHON) -m tests.benchmarks $(ARGS)

clean: ## remove build/ and the native library; the virtual environment stays
	rm -rf build device/runtimes/native/lib

include converter/deploy/deploy.mk
-include tests/board/board.mk
