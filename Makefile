# Two commands do everything: `make demo` and `make test`. Both set up .venv first.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: demo test test-arm test-slow test-versions check lint types imports format bench reproduce clean

demo: .venv/demo
	$(BIN)/cutlayer demo

test: .venv/dev
	$(BIN)/pytest -m "not slow" --numprocesses auto --dist worksteal

test-slow: .venv/dev
	$(BIN)/pytest -m slow

# A release as it goes onto a board, on emulated processors: needs qemu-user-static, gcc-arm-linux-gnueabihf, and the packages of Debian and PyPI.
test-arm: .venv/dev
	$(BIN)/pytest -m arm

# The board's and the core's tests on every other Python that this machine has.
test-versions: .venv/dev
	$(BIN)/python tests/versions.py 3.10 3.12 3.13

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
	$(PYTHON) -m venv .venv
	$(PIP) torch || { echo "The CPU build of PyTorch was not found: point pip at PyTorch's CPU index (docs/install.md)." >&2; exit 1; }
	$(PIP) --editable '.[demo]'
	touch $@

.venv/dev: .venv/demo
	$(PIP) --editable '.[dev]'
	touch $@
