# Two commands do everything: `make demo` and `make test`. Both set up .venv first, with PYTHON (3.10 to 3.13).
PYTHON ?= $(or $(and $(wildcard .venv/demo),$(wildcard .venv/bin/python)),python3)
BIN := .venv/bin
PYTEST := $(BIN)/pytest
SPREAD := --numprocesses auto --dist worksteal
TIMES := --durations=0 --durations-min=1
DIST := dist

.PHONY: demo test test-slow test-long test-arm test-versions tools all-tools check lint types imports format constraints dist bench reproduce clean

demo: .venv/demo
	$(BIN)/cutlayer demo
	@echo "Next: source .venv/bin/activate, then what the README shows under \"Do it by hand\"."

# Those that measure time run alone, after the others.
test: .venv/dev tools
	$(PYTEST) -m "not slow and not long and not alone" $(SPREAD)
	$(PYTEST) -m "alone and not slow and not long"

test-slow: .venv/dev all-tools
	$(PYTEST) -m "slow and not alone and not long" $(SPREAD) $(TIMES)
	$(PYTEST) -m "slow and alone and not long" $(TIMES)

# What takes longer than CI has; what it last said is kept.
test-long: .venv/dev all-tools
	@bash -o pipefail -c '$(PYTEST) -m long --no-header --durations=0 --color=no | tee benchmarks/results/test-long.txt'

# A release as it goes onto a board, on emulated processors.
test-arm: .venv/dev all-tools
	$(PYTEST) -m arm

# The board's and the core's tests on every other Python that this machine has.
test-versions: .venv/dev
	$(BIN)/python tests/versions.py 3.10 3.12 3.13

# The system's programs that tests start, from the distribution's packages, where that is allowed.
tools: .venv/demo
	@$(BIN)/python tests/tools.py

all-tools: .venv/demo
	@$(BIN)/python tests/tools.py slow

check: lint types imports

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev
	$(BIN)/mypy

imports: .venv/dev
	$(BIN)/lint-imports

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# New exact versions where pyproject.toml asks for them; what is pinned stays where it still fits.
constraints: .venv/dev
	cp constraints.txt .venv/pinned.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --extra dev --no-header --no-annotate \
	    pyproject.toml setup/constraints.in --output-file .venv/pinned.txt
	{ grep '^#' constraints.txt; grep -vE '^#|^(cuda|nvidia|triton)|win32' .venv/pinned.txt; } > .venv/constraints.txt
	mv .venv/constraints.txt constraints.txt

# The source archive, and the wheel that is built from it.
dist: .venv/dev
	$(BIN)/uv build --quiet --build-constraints constraints.txt --out-dir $(DIST) .

bench: .venv/dev
	$(BIN)/python benchmarks/codecs.py

# The papers' tables, resumable: make reproduce DATA=FOLDER, with mnist.npz and cifar10.tar.gz in it.
reproduce: .venv/dev
	@test -n "$(DATA)" || { echo "DATA is missing: make reproduce DATA=a folder with mnist.npz and cifar10.tar.gz" >&2; exit 2; }
	$(BIN)/python benchmarks/reproduce/run.py --data "$(DATA)"
	$(BIN)/python benchmarks/reproduce/page.py

clean:
	rm -rf .venv runs dist

.venv/demo: pyproject.toml constraints.txt
	@sh setup/run.sh "$(PYTHON)" demo
	@touch $@

.venv/dev: .venv/demo
	@$(BIN)/python -m setup.environment dev
	@touch $@
