# `make demo` and `make test` do all their set-up themselves, on a machine with Python 3.11 or newer.
VENV ?= .venv
BIN := $(VENV)/bin
FIGURES := a_f06 a_f07 a_f08 a_f09
DEMO := data/runs/demo
DRAWN := data/figures/demo

.PHONY: help demo test test-slow lint format figures bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo     train LeNet-5 sisters on embedded digits, analyse, draw (about 3 minutes)"
	@echo "make test     the tests"
	@echo "make lint     ruff and mypy"
	@echo "make bench    the tables of docs/benchmarks.md anew, peers in an environment of their own (three quarters of an hour)"
	@echo "make figures  the paper's figures from the committed results, into data/figures"

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	@python=$$(for p in python3.11 python3.12 python3.13 python3; do \
	    $$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done); \
	test -n "$$python" || { echo "make: needs Python 3.11 or newer, with venv"; exit 1; }; \
	$$python -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(VENV)/.installed
	OMP_WAIT_POLICY=PASSIVE $(BIN)/rmtnet train studies/lenet5_embedded.py -o $(DEMO)
	$(BIN)/rmtnet analyze $(DEMO)/*.zarr --reference $(DEMO)/b1.zarr --layer ip1 -o $(DEMO)/results.nc
	@mkdir -p $(DRAWN)
	@for figure in $(FIGURES); do $(BIN)/python figures/$$figure.py $(DEMO)/results.nc -o $(DRAWN) || exit; done

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test-slow: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m slow

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

define draw
	@for figure in $(2); do $(BIN)/python figures/$$figure.py data/results/$(1).nc -o data/figures || exit; done
endef

figures: $(VENV)/.installed
	@mkdir -p data/figures
	$(call draw,lenet5_mnist,$(FIGURES))
	$(call draw,speed_cpu,a_f01 a_f02 a_f03 b_f02)
	$(call draw,cuda_convnet_accuracy,a_f04 a_f05)
	$(call draw,cuda_convnet_sisters,a_f10 a_f11 a_f12)
	$(call draw,block_sparse_lstm,b_f01)
	$(call draw,dynamic_mnist,c_f01 c_f02)

bench: $(VENV)/.installed
	$(BIN)/python -m venv $(VENV)/bench
	$(VENV)/bench/bin/python -m pip install --quiet --constraint constraints.txt '.[bench]'
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/report.py --peers $(VENV)/bench/bin/python
	OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=134217728 \
	    $(BIN)/python tests/benchmarks/recording.py

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
