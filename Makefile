# Needs Python >= 3.11 and a compiler. `make demo` and `make test` make the environment in .venv first, if it is not there.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= runs/demo

.PHONY: demo test lint clean

demo: .venv/installed
	$(BIN)/python pretrain.py demo --out $(OUT)
	$(BIN)/python pretrain.py npairs_demo --out $(OUT)-captions

# Small tensors gain nothing from threads; processes that run side by side lose much.
test: .venv/installed
ifdef ARGS
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(ARGS)
else
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slurm" -n 2 --dist loadfile
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slurm -n 3 --dist loadfile  # they mostly wait for Slurm's clocks
endif

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv
