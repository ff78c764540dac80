# Each command sets up what it needs in .venv first; see .ci/setup.
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint bench fuzz sanitize viewer wheel hooks clean
PYTHON := .venv/bin/python
export PYTHONUNBUFFERED := 1

help:
	@echo "make demo    the main job on real molecules: SMILES to labels, five networks, active learning, a report"
	@echo "make test    lint, types and all tests, with the main job at experiment=smoke"
	@echo "make test-all  as make test, with what takes minutes or a server of its own (Slurm, PostgreSQL)"
	@echo "make bench   all benchmarks at a small size"
	@echo "make fuzz    ten minutes of damaged files for the readers of flashrmsd"
	@echo "make sanitize  flashrmsd_cy under AddressSanitizer and UndefinedBehaviorSanitizer"
	@echo "make lint    ruff and mypy alone"
	@echo "make viewer  fetch the 3D viewer's script"
	@echo "make wheel   build the wheel into dist/"
	@echo "make hooks   check each commit with the project's own tools (pre-commit)"
	@echo "make clean   remove .venv and everything that was built (never your data)"

setup: .venv/.ready

# A checkout that was moved or copied takes its environment along, which points to the old place.
ifneq "$(shell cat .venv/.ready 2>/dev/null)" "$(CURDIR)"
.venv/.ready: moved
endif
.PHONY: moved
moved:

.venv/.ready: requirements.lock pyproject.toml .ci/setup .ci/viewer.py $(wildcard flashrmsd_cy/*.pyx flashrmsd_cy/*.px[di])
	@sh .ci/setup

demo: .venv/.ready
	@$(PYTHON) -m sddfkit active experiment=demo

lint: .venv/.ready
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy

# Lint and types run beside the tests: many wait for programs of their own.
test: .venv/.ready
	@$(MAKE) --no-print-directory lint > .venv/lint.log 2>&1 & lint=$$!; \
	$(PYTHON) -m pytest -n 2 --dist loadgroup; tests=$$?; \
	wait $$lint; linted=$$?; cat .venv/lint.log; exit $$((tests ? tests : linted))

test-all: .venv/.ready lint
	@$(PYTHON) -m pytest -n 2 --dist loadgroup -m "long or not long"

bench: .venv/.ready
	@for script in benchmarks/[!_]*.py; do echo "== $$script"; $(PYTHON) "$$script" --quick || exit 1; done

fuzz: .venv/.ready
	@FLASHRMSD_FUZZ_SECONDS=$${FLASHRMSD_FUZZ_SECONDS:-600} \
		$(PYTHON) -m pytest -s -q tests/flashrmsd_cy/test_fuzz_readers.py

sanitize: .venv/.ready
	@sh .ci/sanitize

viewer: .venv/.ready
	@$(PYTHON) .ci/viewer.py

# From nothing: files of an earlier build would end up in the wheel. The 3D viewer's script is not kept in git.
wheel: .venv/.ready
	@$(PYTHON) .ci/viewer.py
	@rm -rf build dist/sddfkit-*.whl
	@$(PYTHON) -m build --wheel --no-isolation

hooks: .venv/.ready
	@.venv/bin/pre-commit install

clean:
	rm -rf .venv build dist *.egg-info flashrmsd_cy/*.so flashrmsd_cy/*.c sddfkit/viz/static/3Dmol-min.js
