# Catalens. `make demo` and `make test` are all one needs to know; both create .venv first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
DATA ?=
# Ray's HAProxy comes for Linux only; README.md, "In production"
HAPROXY := $(if $(filter Linux,$(shell uname)),RAY_SERVE_ENABLE_HA_PROXY=1 RAY_SERVE_THROUGHPUT_OPTIMIZED=1 \
	RAY_SERVE_HAPROXY_RETRY_ON="conn-failure empty-response" RAY_SERVE_HAPROXY_TUNE_BUFSIZE=262144 \
	RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE=1)
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help install demo serve test lint format bench clean

help: ## what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

install: $(VENV)/.installed ## create .venv with the exact versions of constraints.txt

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; $(PYTHON) is older. Set PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --progress-bar off -c constraints.txt -e '.[dev]'
	@touch $@

demo: install ## the whole way, from pictures to HTTP answers; DATA=folder for your own photos
	$(BIN)/python -m serve_app.demo $(if $(DATA),--data $(DATA) --output-dir demo_output_photos)

serve: install ## serve the model of CLIP_MODEL_PATH (default: the demo's)
	export CLIP_MODEL_PATH=$${CLIP_MODEL_PATH:-demo_output/model/best_model} \
	CLIP_INDEX_PATH=$${CLIP_INDEX_PATH:-demo_output/index} \
	RAY_AUTH_MODE=$${RAY_AUTH_MODE:-disabled} $(HAPROXY); \
	$(BIN)/python -m serve_app.check --ports && exec $(BIN)/serve run serve_config.yaml

lint: install ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint ## lint, types and all tests
	$(BIN)/pytest

format: install ## put the code into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install ## the numbers of README.md that need no training, measured on this machine
	$(BIN)/python -m benchmarks.verdict_hop

clean: ## remove the environment and everything the demo made
	rm -rf $(VENV) demo_output demo_output_photos .mypy_cache .ruff_cache .pytest_cache
