# The first `make demo` or `make test` sets everything up in this folder (.tools, .venv); python3
# with pip is all it needs. Later ones start at once. Without make: docs/setup.md.

UV       := .tools/bin/uv
PYTHON   := .venv/bin/python
READY    := .venv/.ready
VERSIONS := --constraints constraints.txt
ARGS     :=

.PHONY: help setup demo test lint types format ci pins clean

help:
	@echo "make demo    the whole journey on a made-up valley, written to demo/"
	@echo "make test    the tests; choose some with ARGS=\"-k windows\""
	@echo "make lint    style of the code (ruff)"
	@echo "make types   type hints (mypy)"
	@echo "make format  put the code into its style"
	@echo "make ci      tests, lint and types"
	@echo "make setup   only the set-up, which the others do by themselves"
	@echo "make pins    write constraints.txt anew from the newest versions"
	@echo "make clean   remove all that make has made"

setup: $(READY)

demo: $(READY)
	.venv/bin/landslip demo --overwrite

test: $(READY)
	$(PYTHON) -m pytest $(ARGS)

lint: $(READY)
	.venv/bin/ruff check
	.venv/bin/ruff format --check

types: $(READY)
	.venv/bin/mypy

format: $(READY)
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

ci: test lint types

# A plain `pip install` may be refused (PEP 668) and Python may lack venv: both are so on Debian.
# pip may always fill a folder of its own, and uv makes environments without the venv module.
$(UV):
	python3 -m pip install --quiet --upgrade --target .tools --constraint constraints.txt uv

$(PYTHON): | $(UV)
	$(UV) venv --quiet --clear .venv

$(READY): pyproject.toml constraints.txt | $(PYTHON)
	@echo "On Linux the set-up takes 3 GB (torch with CUDA); UV_TORCH_BACKEND=cpu make ... far less."
	$(UV) pip install --python $(PYTHON) --compile-bytecode --editable ".[tensorboard]" --group dev $(VERSIONS)
	@touch $(READY)

# The oldest Python, so that the versions serve all of them.
# CUDA libraries exist on some platforms only and follow torch, so they are never pinned.
pins:
	python3 -m pip install --quiet --upgrade --target .tools uv
	$(UV) venv --quiet --clear --python 3.11 .venv
	$(UV) pip install --python $(PYTHON) --editable ".[tensorboard]" --group dev
	grep '^#' constraints.txt > .venv/pins
	$(UV) pip freeze --python $(PYTHON) --exclude-editable | sed 's/+.*//' \
	  | grep -vE '^(nvidia-|cuda-|triton=)' >> .venv/pins
	$(UV) --version | sed 's/^uv \([^ ]*\).*/uv==\1/' >> .venv/pins
	mv .venv/pins constraints.txt
	@touch $(READY)

clean:
	rm -rf .tools .venv demo dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
