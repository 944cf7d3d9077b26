# The verbs people say. Each sets up what it needs; the stamp in .venv lets the second run start at once, without a network.

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/complete
PIP   := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input
AUDIT := $(VENV)/audit
BENCH := $(VENV)/bench-complete

TORCH     := torch==2.13.0
TORCH_CPU := https://download.pytorch.org/whl/cpu

.PHONY: help setup demo demo-s3 localstack faults compose-tour test lint audit bench format clean

help: ## say what there is
	@sed -n 's/^\([a-z0-9-]*\):.*## /  make \1 — /p' Makefile

setup: $(STAMP) ## make the virtual environment

demo: setup ## drop documents into a folder, search them, watch the index follow
	@$(BIN)/python -u -X utf8 demo/demo.py

demo-s3: setup ## the same with a bucket, on LocalStack
	@$(BIN)/python -u -X utf8 demo/demo_s3.py

localstack: setup ## start LocalStack on the loopback interface, without Docker
	@localstack/run

faults: setup ## run the fault suite; ARGS="--histories 50 --seed 1" chooses
	@$(BIN)/python -m tests.faults $(ARGS)

compose-tour: ## needs Docker: bring the Compose file up from nothing, kill every container, and see that nothing is lost
	@python3 tests/compose/tour.py

test: setup ## run the tests, three files at a time; ARGS="tests/unit -n0 -x" chooses
	@$(BIN)/python -m pytest --numprocesses=3 --dist=loadfile $(ARGS)

lint: setup ## check style, types, the direction of imports, and the documentation
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python docs/check.py

audit: setup ## compare what is installed with known vulnerabilities, and with the lock
	@$(AUDIT)/bin/python -m pip_audit --version >/dev/null 2>&1 || { $(BIN)/python -m venv --clear $(AUDIT) && \
	$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check --no-input pip-audit==2.10.1; } || \
	echo "pip-audit cannot be installed here"
	@$(BIN)/python .ci/audit.py $(AUDIT)/bin/python $(VENV)

format: setup ## rewrite the sources in the project's style
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

bench: $(BENCH) ## measure speed and freshness; ARGS="--help" says what there is
	@$(BIN)/python -m benchmarks $(ARGS)

clean: ## remove everything that was made here, the virtual environment included
	rm -rf $(VENV) .localstack build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# torch comes first, so that its CPU build is taken where pip can reach one; without it pip warns and takes PyPI's.
# Whatever stopped half way is finished by the next run: the stamp is the last thing made. What came from which archive is
# noted for `make audit`.
$(STAMP): pyproject.toml constraints.txt
	@python=$$(PYTHON="$(PYTHON)" sh .ci/find-python) && echo "setting up $(VENV) with $$python; this takes some minutes once" && \
	{ $(BIN)/python -m pip --version >/dev/null 2>&1 || $$python -m venv --clear $(VENV); }
	@$(PIP) --report $(VENV)/installed-$$(date +%s)-torch.json --retries 0 --timeout 20 $(TORCH) --extra-index-url $(TORCH_CPU)
	@$(PIP) --report $(VENV)/installed-$$(date +%s).json --constraint constraints.txt --editable '.[dev]'
	@touch $@

# The queues that Celery is measured against; nobody else needs them.
$(BENCH): $(STAMP)
	@$(PIP) --report $(VENV)/installed-$$(date +%s)-bench.json --constraint constraints.txt --editable '.[dev,bench]'
	@touch $@
