# make demo and make test set up all they need: .venv with the versions of requirements.lock, and semiseg itself.
PYTHON ?= python3
BIN := .venv/bin
# The tests run side by side, one process a core (make test TEST_JOBS=0: in one process, as a debugger wants it). Each has
# one thread: their tensors are small, and more threads only wait for one another.
TEST_JOBS ?= auto
# Options for pytest: make test ARGS="-k ema -x"
ARGS ?=

.PHONY: demo test test-long check setup lock audit fuzz docs clean
.DELETE_ON_ERROR:

demo: .venv/ready  ## Generated images, three trainings, a report
	$(BIN)/semiseg demo --out demo-out/$$(date +%Y%m%d-%H%M%S)

test: .venv/ready  ## The test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile $(ARGS)

test-long: .venv/ready  ## The tests that take minutes, and only those
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long $(ARGS)

check: .venv/ready  ## Lint and types
	$(BIN)/ruff check .
	$(BIN)/mypy

setup: .venv/ready  ## Only the set-up

# A stamp is written when all before it has succeeded: what was interrupted is done again, from an empty .venv.
.venv/locked: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	@echo "setting up .venv (once; several GB, a few minutes)"
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

# setuptools is in the lock, so that the build needs no download. pip check tells a lock that pyproject.toml has outgrown.
.venv/ready: .venv/locked pyproject.toml
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	$(BIN)/python -m pip check
	@touch $@

# The newest versions that pyproject.toml allows, for every system and every Python that it names, with the hashes of all
# their files. uv does this from the index's figures alone; pip would have to download 5 GB, and pip-tools locks for the
# system that it runs on. Not torch 2.13.0: where its CPU-only build is at hand, pip prefers that (2.13.0+cpu), and it
# cannot be imported beside torchvision. setuptools is what the set-up builds semiseg with.
lock:  ## Make requirements.lock anew
	rm -rf .venv.lock
	$(PYTHON) -m venv .venv.lock
	.venv.lock/bin/python -m pip install --disable-pip-version-check --quiet uv
	printf 'setuptools>=77\ntorch!=2.13.0\n' | .venv.lock/bin/uv pip compile pyproject.toml - --extra dev --quiet \
	  --universal --python-version 3.11 --generate-hashes --no-annotate --no-header -o requirements.lock.new
	{ echo '# Made by `make lock`; installed by `make demo` and `make test`.'; cat requirements.lock.new; } > requirements.lock
	rm -rf .venv.lock requirements.lock.new

# Asks a public service for known vulnerabilities; from a folder of its own, since it is part of nothing else.
audit:  ## Look the versions of requirements.lock up among known vulnerabilities
	rm -rf .venv.audit
	$(PYTHON) -m venv .venv.audit
	.venv.audit/bin/python -m pip install --disable-pip-version-check --quiet pip-audit
	.venv.audit/bin/pip-audit --require-hashes --disable-pip -r requirements.lock

# Arbitrary text, bytes and JSON into every reader, for so long: make fuzz MINUTES=60
MINUTES ?= 10
fuzz: .venv/ready  ## The tests of tests/test_fuzz.py for MINUTES minutes, by draws of their own
	SEMISEG_FUZZ_MINUTES=$(MINUTES) OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_fuzz.py $(ARGS)

docs: .venv/ready  ## The pages that are made from the sources
	$(BIN)/python docs/make_reference.py
	$(BIN)/python docs/make_dependencies.py

clean:  ## Remove .venv and every cache; runs and demo-out stay
	rm -rf .venv .venv.lock .venv.audit build dist src/semiseg.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
