# Everything a newcomer needs is here; `make help` lists it. Nothing is installed outside .venv.
VENV    ?= .venv
PYTHON  ?= python3
PROFILE ?=
BIN     := $(CURDIR)/$(VENV)/bin
PY      := $(BIN)/python
export PATH := $(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
export OMP_NUM_THREADS := 1

.DEFAULT_GOAL := help
.PHONY: help setup study test test-slow smoke lab export clean-notebooks bench report readme lock lint

help: ## list what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

setup: $(VENV)/.ok ## create .venv with every package pinned in requirements.lock

$(VENV)/.ok: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else "lobresearch needs Python 3.11 to 3.13; this is %d.%d. Name another with make PYTHON=..." % v)'
	@echo "== setting up: packages into $(VENV) (two minutes or so)"
	@$(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --disable-pip-version-check --progress-bar off -q -r requirements.lock
	@$(PY) -m pip install --disable-pip-version-check -q --no-deps --no-build-isolation -e .
	@touch $@

study: $(VENV)/.ok ## run the whole study and build the report (PROFILE=full for the large one)
	@$(if $(PROFILE),lobresearch profile $(PROFILE))
	@echo "== data"
	@lobresearch data check
	@echo "== study: only stages whose inputs changed are run"
	@dvc repro
	@echo "== done: open reports/html/index.html"

test: $(VENV)/.ok ## check notebooks and package against each other, and run all tests
	@echo "== the package equals the notebooks, and notebooks are stored clean"
	@$(PY) tests/check_clean.py
	@echo "== every notebook runs"
	@nbdev_test --n_workers 2 --timing
	@echo "== tests"
	@$(PY) -m pytest -q -n 2 --dist worksteal

test-slow: $(VENV)/.ok ## the tests that take minutes
	@$(PY) -m pytest -q -m slow --durations=10

smoke: $(VENV)/.ok ## the whole chain at toy size, in a copy of this checkout
	@$(PY) tests/smoke.py

lab: $(VENV)/.ok ## open JupyterLab; outputs are stripped on save
	@jupyter lab --config=jupyter_config.py

export: $(VENV)/.ok ## write the package from the notebooks
	@nbdev_export

clean-notebooks: $(VENV)/.ok ## strip outputs and stray metadata from every notebook
	@jupyter nbconvert --clear-output --inplace --log-level=ERROR nbs/*.ipynb nbs/*/*.ipynb
	@nbdev_clean

bench: $(VENV)/.ok ## print our speed beside the naive way's, in one run
	@for b in benchmarks/bench_*.py; do echo "== $$b"; $(PY) $$b || exit 1; done

report: $(VENV)/.ok ## build the report anew from the stages' last outputs
	@dvc repro --single-item --force report

readme: $(VENV)/.ok ## write README.md from nbs/index.ipynb
	@jupyter nbconvert --to markdown --log-level=ERROR --output-dir . --output README nbs/index.ipynb

lint: $(VENV)/.ok ## style of package and tests
	@ruff check lobresearch tests benchmarks

lock: ## pin requirements.in anew (needs uv)
	@uv pip compile -q --no-header --no-annotate --python-version 3.11 requirements.in | grep -vE '^(nvidia|cuda|triton)' > requirements.lock
