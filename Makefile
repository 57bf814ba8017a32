# Everything runs from .venv; nothing here needs root. Two commands matter: `make demo` and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup demo test test-fast lint format docs bench fuzz properties soak clean distclean

help:  ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found; name another one: make PYTHON=python3 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "isplit-plugin needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) -V)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# One stamp per set of extras, so that the demo does not wait for the test tools.
$(VENV)/.demo: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing (about 5.5 GB, a minute or two on a fast line): torch brings its CUDA libraries along"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(VENV)/.fuzz: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[fuzz]'
	@touch $@

$(VENV)/.docs: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $@

setup: $(VENV)/.dev  ## make .venv with everything

demo: $(VENV)/.demo  ## the whole path on a real network in a real TorchServe, 5 to 6 minutes
	$(BIN)/isplit demo $(ARGS)

# Two processes share the tests. The live servers of tests/e2e are tested one after another: two of
# them at once would starve each other. On a starved machine a test may fail by chance, so a file in
# which one failed runs once more, in a new process.
test: $(VENV)/.dev  ## all tests, real servers included; with ARGS one pytest with these arguments
ifeq ($(ARGS),)
	$(BIN)/python -m pytest --cache-clear -n 2 --dist loadfile --no-loadscope-reorder --ignore=tests/e2e \
	  || PYTHONPATH=tests $(BIN)/python -m toys.once_more $$?
	$(BIN)/python -m pytest tests/e2e || PYTHONPATH=tests $(BIN)/python -m toys.once_more $$?
else
	$(BIN)/python -m pytest $(ARGS)
endif

test-fast: $(VENV)/.dev  ## without servers and slow tests
	$(BIN)/python -m pytest -m 'not server and not slow' $(ARGS)

lint: $(VENV)/.dev  ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.dev  ## let ruff format and fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.docs  ## the documentation in build/docs; every warning is an error
	$(BIN)/sphinx-build -W --keep-going --builder html --doctree-dir build/doctrees docs build/docs $(ARGS)

bench: $(VENV)/.dev  ## speed and memory, JSON and a table
	$(BIN)/python -m benchmarks $(ARGS)

properties: $(VENV)/.dev  ## the property tests on new random inputs; `make test` repeats the same ones
	$(BIN)/python -m pytest -n 2 --hypothesis-profile random -m 'hypothesis and not server' $(ARGS)

fuzz: $(VENV)/.fuzz  ## fuzz all readers of foreign bytes, 20 s each; ARGS='--seconds 60 request'
	PYTHONPATH=tests $(BIN)/python -m fuzz $(ARGS)

soak: $(VENV)/.dev  ## load with faults on a real TorchServe and PostgreSQL; ARGS='--minutes 60'
	$(BIN)/python -m benchmarks.soak $(ARGS)

clean:  ## remove build products and caches
	rm -rf build dist docs/reference/api *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -exec rm -rf {} +
	find model_store -mindepth 1 -not -name README.md -delete

distclean: clean  ## also remove .venv
	rm -rf $(VENV) .nox
