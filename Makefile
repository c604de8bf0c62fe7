# make demo   sigma(x0, 0.01) of 40 CIFAR-10 images, and a report on the network, in OUT
# make test   the whole test suite, on all cores
# make lint   style, types, and the numbers of the pages against their files
# make bench  speeds, as ratios to plain torch in the same run
# make mutants  random mutants of the code, and whether the tests kill them; half an hour
# make sanitize  the kernels' tests under AddressSanitizer and UBSan, the pool under ThreadSanitizer
# make clean  deletes the environment and what was built
# make help   this list
# Each makes its environment first, once, in .venv.

PYTHON ?= python3
OUT ?= out/demo

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
CODE := $(shell find csrc -type f)
SOURCES := pyproject.toml setup.py constraints.txt $(CODE) $(shell find robustcore -type f \
	! -name '*.so' ! -name '*.pyc')

# Threads that sleep while they wait leave the machine to whoever else is at work on it.
export OMP_WAIT_POLICY ?= passive

.PHONY: demo test lint bench mutants sanitize clean help

demo: .venv/installed
	$(BIN)/robustcore sigma --model cifar10-natural --images 40 --rate 0.01 --with-distance --out $(OUT)
	$(BIN)/robustcore report --model cifar10-natural --images 40 --quick --records $(OUT) --out $(OUT)

# As many processes as cores, each of one thread; one that is done takes over tests of another.
test: .venv/developed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n logical --maxprocesses 8 --dist worksteal

lint: .venv/developed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CODE) $(wildcard tests/*.cpp benchmarks/*.cpp)
	$(BIN)/python benchmarks/check_numbers.py

bench: .venv/developed
	$(BIN)/pytest benchmarks -o python_files='bench_*.py' --benchmark-only

mutants: .venv/developed
	$(BIN)/python benchmarks/mutants.py

sanitize: .venv/developed
	tests/sanitize.sh $(BIN)/python

help:
	@sed -n 's/^# make/make/p' Makefile

clean:
	rm -rf .venv build dist out *.egg-info .pytest_cache .mypy_cache .ruff_cache

.venv/builders: constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) setuptools pybind11
	touch $@

# Not editable: what is run and tested is what a user installs. Compiled objects stay in build/;
# Python files there do not, so that one deleted from the sources is not installed.
.venv/installed: .venv/builders $(SOURCES)
	find build -name '*.py' -delete 2>/dev/null || true
	$(PIP) --no-build-isolation .
	touch $@

.venv/developed: .venv/builders $(SOURCES)
	find build -name '*.py' -delete 2>/dev/null || true
	$(PIP) --no-build-isolation '.[dev,triton]'
	touch .venv/installed $@
