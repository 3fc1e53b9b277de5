# Two commands on a fresh machine with Python 3.11 and make: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
UV := 0.13.9
ARGS ?=
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true
export BENTOML_DO_NOT_TRACK := true

.PHONY: demo test long quick drills lint services lock audit bench-serving bench-live bench-events bench-models bench-training pictures clean

demo: .venv/installed  ## the whole loop, from nothing to a served, explained, gated recommender
	$(BIN)/greenlight demo $(ARGS)

test: .venv/installed services  ## every test but those of many minutes
	$(BIN)/python -m pytest -n 3 --dist worksteal -m "not long" $(ARGS)

long: .venv/installed services  ## the tests of many minutes: twenty weeks of a home's life, kills at every step
	$(BIN)/python -m pytest -m long $(ARGS)

quick: .venv/installed  ## the tests that start no server
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not server and not long" $(ARGS)

drills: .venv/installed services  ## what keeps the events is broken, again and again; writes docs/reliability.md
	$(BIN)/python -m tests.faults.drills $(ARGS)

lint: .venv/installed  ## style, types, known vulnerabilities
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

services:  ## what tests need beyond Python: strace, Chromium, redis-server, Java and Kafka, where this user may install them
	@deploy/services.sh

lock:  ## one lock for Python 3.11 to 3.13
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --extra dev pyproject.toml -o requirements.lock

audit: .venv/installed  ## known vulnerabilities in what is installed
	$(BIN)/pip-audit --require-hashes --disable-pip -r requirements.lock

bench-serving: .venv/installed  ## /recommend beside bare Starlette, native BentoML and mlflow models serve
	$(BIN)/python -m benchmarks.serving $(ARGS)

bench-live: .venv/installed  ## tails while events pour in, the archive runs and releases are swapped; times to effect
	$(BIN)/python -m benchmarks.live $(ARGS)

bench-events: .venv/installed services  ## storing, draining and serving with and without Kafka, beside bare parts
	$(BIN)/python -m benchmarks.events $(ARGS)

bench-models: .venv/installed  ## quality, speed and size of every model; writes docs/models.md
	$(BIN)/python -m benchmarks.models $(ARGS)

bench-training: .venv/installed  ## how the wall time of train divides, and what it is over bare fits
	$(BIN)/python -m benchmarks.training

pictures: .venv/installed  ## the pictures in docs/, from the home of the last demo
	$(BIN)/python -m benchmarks.pictures $(ARGS)

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV)
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@

clean:
	rm -rf .venv .greenlight build *.egg-info
