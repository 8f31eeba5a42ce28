# Two commands matter: `make demo` (the whole line, once, on this machine) and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test lint check unit test-slow bench bench-serve bench-gpu setup clean

demo: $(READY)  ## render, ingest, train, register, serve and animate, on embedded defaults
	$(BIN)/xnemo demo

test: $(READY) lint unit  ## everything that must hold before a commit (at most ten minutes on two cores)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(READY)  ## a process per core; what shares a module's fixtures stays together
	$(BIN)/pytest -n logical --maxprocesses 4 --dist loadscope

test-slow: $(READY)  ## clusters, faults and the whole demo
	$(BIN)/pytest -m "slow and not gpu" --durations=15

bench: $(READY)  ## measurements; printed, never asserted
	$(BIN)/python -m tests.benchmarks
	$(BIN)/python -m tests.benchmarks.ingest
	$(BIN)/python -m tests.benchmarks.motion
	$(BIN)/python -m tests.benchmarks.train

bench-serve: $(READY)  ## the service against the same work done directly; printed, never asserted
	$(BIN)/python -m tests.benchmarks.serve

bench-gpu: $(READY)  ## one second of video at the released shape, on a GPU
	$(BIN)/python -m tests.benchmarks.gpu

setup: $(READY)

# The constraints file is the one list of versions. OpenCV's two wheels write the same folder, so the one
# without a GUI is installed last: it needs no X libraries. Then the face models (Apache-2.0, out of a wheel).
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || \
	  { echo "Python 3.11 or 3.12 is needed; $(PYTHON) is another. Try: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --force-reinstall --no-deps opencv-python-headless
	$(BIN)/python -m xnemo.media.face_models
	touch $@

clean:  ## removes what `make demo` wrote, not the environment
	rm -rf data build *.egg-info
