# Two commands are enough on a fresh machine with Python 3.11 or newer:
#   make demo    installs into .venv, then learns one thing after another on real input (minutes)
#   make test    installs into .venv, then runs every check
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.nestling-installed
DEMO_OUT ?= runs/demo

.PHONY: setup demo test lint typecheck layers pytest docs clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "nestling needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "cannot make a virtual environment: on Debian run 'apt-get install python3-venv'"; exit 2; }
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[robot,text,peft,minilm,dev]'
	@touch $@

demo: setup
	@rm -rf $(DEMO_OUT)
	@$(BIN)/nestling demo --out $(DEMO_OUT)

test: lint typecheck layers pytest

lint: setup
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks

typecheck: setup
	$(BIN)/basedpyright

layers: setup
	$(BIN)/lint-imports

pytest: setup
	$(BIN)/python -m pytest --cov --cov-report=term

clean:
	rm -rf $(VENV) build dist runs
