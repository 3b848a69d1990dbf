# Everything a developer or CI calls. Needs python3 (3.11 or newer) and make.
PYTHON ?= python3
PORT ?= 8443
SUITE ?= trixie
VENV = .venv
BIN = $(VENV)/bin
SOURCES = ktlsgate scripts tests
LINT = $(shell $(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["lint"])')

.PHONY: run test matrix style types format certs probe probe-file bench bench-lab build clean

run: $(VENV)/ready ## certificates, demo backend and gate on https://localhost:8443
	@$(BIN)/python scripts/demo.py --port $(PORT)

test: ## the whole suite against the built wheel; kTLS parts here or in the lab
	@$(PYTHON) scripts/run_tests.py $(ARGS)

matrix: ## every cell of README's matrix on every kernel and OpenSSL; writes it
	@$(PYTHON) scripts/matrix.py

style: $(VENV)/lint
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

types: $(VENV)/lint
	$(BIN)/mypy

format: $(VENV)/lint
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

certs: $(VENV)/ready
	@$(BIN)/python scripts/make_certs.py

probe: ## what this machine's kernel and OpenSSL can do; needs no packages
	@$(PYTHON) scripts/ktls_probe.py

probe-file: ## the probe as one file for any machine with Python 3.11: dist/ktls_probe.pyz
	@$(PYTHON) scripts/build_probe.py

bench: $(VENV)/ready ## what the gate costs beside nginx, haproxy, hitch and stunnel
	@PYTHONPATH=scripts $(BIN)/python -m bench $(ARGS)

bench-lab: $(VENV)/ready ## the same beside nginx on a kernel with kTLS, in the lab
	@PYTHONPATH=scripts $(BIN)/python -m bench.lab $(SUITE) $(ARGS)

build: $(VENV)/ready
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

$(VENV)/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ktlsgate needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	@$(PYTHON) -m venv $(VENV) || { echo "cannot make a virtual environment (Debian: apt-get install python3-venv)"; exit 1; }
	@echo "setting up $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo]'
	@touch $@

$(VENV)/lint: $(VENV)/ready
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(LINT)
	@touch $@

clean:
	rm -rf $(VENV) .venv-test build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
