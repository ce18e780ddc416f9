# Two commands on a machine with Python 3.11, 3.12 or 3.13 and make: `make train` and `make test`. `make help` lists the rest.

# the first that starts: pyenv has a command for each version that it could install
PYTHON ?= $(firstword $(foreach version,3.11 3.12 3.13,$(shell python$(version) -c 'import sys; print(sys.executable)' 2>&-)))
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEV := $(VENV)/.ready-dev
CONSTRAINTS := constraints.txt
OLDEST := .venv-oldest
ARGS ?=

.PHONY: help train test test-long test-oldest soak fuzz lint docs figures bench gpu bench-learn secrets clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

$(READY): pyproject.toml constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "make: found none of python3.11, python3.12, python3.13: install one, or pass PYTHON=path" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>&- || { echo "make: $(PYTHON) cannot make virtual environments, as it has no ensurepip: on Debian and Ubuntu install pythonVERSION-venv" >&2; exit 1; }
	@echo "setting up $(VENV), which takes some minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) torch torchvision
	$(BIN)/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[examples]'
	@touch $@

$(DEV): $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[examples,dev]'
	@touch $@

train: $(READY)  ## train four stage workers on moving handwritten digits; ARGS='--json --set seed=1' passes options on
	@$(BIN)/python examples/make_digits.py data/digits
	@$(BIN)/sideways train examples/digits.toml $(ARGS)

test: $(DEV)  ## every test but the long ones
	$(BIN)/python -m pytest -m "not long" $(ARGS)

test-long: $(DEV)  ## the long ones: more faults and hosts
	$(BIN)/python -m pytest -m long $(ARGS)

test-oldest:  ## `make test` with the oldest torch that the code runs on, and Python 3.12, in an environment of its own
	@mkdir -p $(OLDEST)
	@sed -e 's/^torch==.*/torch==2.11.0/' -e 's/^torchvision==.*/torchvision==0.26.0/' -e '/^setuptools==/d' constraints.txt > $(OLDEST)/constraints.txt
	$(MAKE) test VENV=$(OLDEST) PYTHON="$$(python3.12 -c 'import sys; print(sys.executable)')" CONSTRAINTS=$(OLDEST)/constraints.txt

soak: $(DEV)  ## half an hour of random faults, then the same ticks undisturbed, must be equal; ARGS='--minutes 5'
	$(BIN)/python -m tests.soak $(ARGS)

fuzz: $(DEV)  ## an hour of fuzzing whatever reads from a socket; ARGS=-max_total_time=60
	$(BIN)/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[fuzz]'
	$(BIN)/python -m tests.fuzz $(or $(ARGS),-max_total_time=3600)

lint: $(DEV)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(DEV)  ## the documentation as a site in site/, every link checked
	$(BIN)/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)

figures: $(DEV)  ## write the figures of benchmarks/results into the tables of README and docs, and draw the schedule
	$(BIN)/python -m benchmarks.figures
	$(BIN)/python docs/draw_schedule.py > docs/schedule.svg

bench: $(DEV)  ## benchmarks; ARGS='--json' adds a last line of figures
	$(BIN)/python benchmarks/tick.py $(ARGS)
	$(BIN)/python benchmarks/edges.py $(ARGS)
	$(BIN)/python benchmarks/scale.py $(ARGS)
	$(BIN)/python benchmarks/peers.py $(ARGS)
	$(BIN)/python benchmarks/replicas.py $(ARGS)
	$(BIN)/python benchmarks/options.py $(ARGS)
	$(BIN)/python benchmarks/gpu.py $(ARGS)
	$(BIN)/python benchmarks/stream.py $(ARGS)
	$(BIN)/python benchmarks/feed.py $(ARGS)
	$(BIN)/python benchmarks/memory.py $(ARGS)
	$(BIN)/python benchmarks/recovery.py $(ARGS)

gpu: $(DEV)  ## everything that needs a GPU, in 8 minutes; ARGS=--dry-run: what of it the CPU can do
	$(BIN)/python -m benchmarks.drill $(ARGS)

bench-learn: $(DEV)  ## hours: accuracy against frames and seconds, and when Sideways learns; goes on where it stopped
	$(BIN)/python benchmarks/learn.py $(ARGS)
	$(BIN)/python benchmarks/study.py $(ARGS)

# the folder protects them; the files are read by the containers' own users: redis, sideways, grafana
secrets:  ## passwords for docker compose, in deploy/secrets; those that are there stay
	@install -d -m 700 deploy/secrets
	@for name in redis grafana; do \
		[ -s deploy/secrets/$${name}_password ] || \
		od -An -N24 -tx1 /dev/urandom | tr -d ' \n' > deploy/secrets/$${name}_password; \
		chmod 644 deploy/secrets/$${name}_password; \
	done

clean:  ## remove the virtual environment, caches and the drawn digits; your runs stay
	rm -rf $(VENV) $(OLDEST) data/digits build site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
