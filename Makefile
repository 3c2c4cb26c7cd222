# Two commands: `make book` and `make test`. CONTRIBUTING.md tells what they do and cost.
# PY picks the interpreter; TORCH_INDEX an index for torch (Linux without a GPU:
# make book TORCH_INDEX=https://download.pytorch.org/whl/cpu).
SHELL := /bin/bash
PY ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check
CONSTRAINTS ?= -c constraints.txt
PORT ?= 8000
HTML := _build/html
SOURCES := $(shell find book nodes_tutorial tests tools notebooks results -type f -not -name '*.pyc' \
	-not -path '*/node_modules/*') _config.yml _toc.yml conftest.py
export OMP_NUM_THREADS ?= 1
export PYDEVD_DISABLE_FILE_VALIDATION := 1

.PHONY: book test serve chapter pdf bench robust unit lint notebooks notebooks-here address clean
.DELETE_ON_ERROR:

book: $(HTML)/.stamp
	@echo "The book: $(CURDIR)/$(HTML)/index.html (or: make serve)"

test: lint $(HTML)/.stamp
	$(BIN)/python -m pytest -n logical --dist worksteal --nbmake \
		--nbmake-timeout=$(if $(CI),300,1200) tests notebooks

serve:
	@$(MAKE) --no-print-directory book || test -f $(HTML)/index.html
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory $(HTML) $(PORT)

# one page for its author, C=ode/stability: executes it, builds without the outputs of the others
chapter: .venv/.stamp
	@test -n "$(C)" || { echo "Name a chapter: make chapter C=ode/stability"; exit 1; }
	$(BIN)/python -m tools.notebooks
	$(BIN)/python -m tools.prepare $(C)
	rm -f $(HTML)/.stamp
	$(BIN)/jupyter-book build -q . || true
	@echo "http://127.0.0.1:$(PORT)/book/$(C).html"
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory $(HTML) $(PORT)

# a PDF of each chapter, linked from its page; needs Chromium and Node.js
pdf: $(HTML)/.stamp
	$(BIN)/python -m tools.pdf

bench: .venv/.bench
	$(BIN)/python -m benchmarks.ode $(RECORD)
	$(BIN)/python -m benchmarks.ode_events $(RECORD_EVENTS)
	$(BIN)/python -m benchmarks.flows $(RECORD_FLOWS)
	$(BIN)/python -m benchmarks.flows_spline $(RECORD_SPLINE)
	$(BIN)/python -m benchmarks.latent $(RECORD_LATENT)
	$(BIN)/python -m benchmarks.implicit $(RECORD_IMPLICIT)
	$(BIN)/python -m benchmarks.bayes $(RECORD_BAYES)
	$(BIN)/python -m benchmarks.pernet $(RECORD_PERNET)
	$(BIN)/python -m benchmarks.meta $(RECORD_META)

# the chapters under other arithmetic, threads and seeds; C=ode/stability limits it to a chapter
robust: .venv/.stamp
	$(BIN)/python -m tools.notebooks
	$(BIN)/python -m tools.robust $(C)

# quick checks for an author: no site, no notebooks
unit: .venv/.stamp lint
	$(BIN)/python -m pytest -n logical tests \
		--ignore=tests/site --ignore=tests/browser

lint: .venv/.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache | tail -n 4
	$(BIN)/basedpyright --pythonpath $(BIN)/python --baselinemode=discard

notebooks: .venv/.stamp
	$(BIN)/python -m tools.notebooks

# the reader notebooks in the Python that is there, and with its packages: Colab's image
notebooks-here:
	$(PY) -m pip install -q . nbmake pytest
	$(PY) -m pytest -c /dev/null --rootdir=. --noconftest --nbmake --nbmake-timeout=300 notebooks

address: .venv/.stamp
	$(BIN)/python -m tools.address
	$(BIN)/python -m tools.notebooks

clean:
	rm -rf _build

.venv/.stamp: pyproject.toml constraints.txt
	@test -n "$(PY)" || { echo "No Python 3.11 or later found; name one with PY=..."; exit 1; }
	@test -x $(BIN)/python || $(PY) -m venv .venv
	@echo "Installing into .venv (some minutes the first time)"
	$(if $(TORCH_INDEX),$(PIP) --no-deps $(CONSTRAINTS) --index-url $(TORCH_INDEX) torch)
	$(PIP) $(CONSTRAINTS) -e '.[book,test]'
	@touch $@

.venv/.bench: .venv/.stamp
	$(PIP) $(CONSTRAINTS) -e '.[bench]'
	@touch $@

# Sphinx starts from nothing each time: an old page or style would stay otherwise.
# A failed check stops nothing: the site is there, its page shows it, and the list stands at the end.
$(HTML)/.stamp: .venv/.stamp $(SOURCES)
	$(BIN)/python -m tools.notebooks
	$(BIN)/python -m tools.prepare
	rm -rf $(HTML) _build/.doctrees
	@status=0; $(BIN)/jupyter-book build . -W --keep-going -n || status=$$?; \
	$(BIN)/python -m tools.failures || status=1; exit $$status
	@touch $@
