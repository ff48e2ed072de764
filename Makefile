# Every target builds the virtual environment that it needs, under .venv, and rebuilds it when
# pyproject.toml or constraints.txt changes.  PYTHON=/path/to/python chooses the interpreter.

.NOTPARALLEL:

# First interpreter of one of the versions $(1), in that order, on PATH or under pyenv, that can make environments.
find_python = $(shell for version in $(1); do \
    candidates="python$$version"; \
    for name in $$(pyenv versions --bare 2>/dev/null | grep "^$$version\." | sort -rV); do \
        candidates="$$candidates $$(pyenv prefix $$name)/bin/python"; \
    done; \
    for python in $$candidates; do \
        if "$$python" -c "import ensurepip, sys; assert '%d.%d' % sys.version_info[:2] == '$$version'" 2>/dev/null; \
        then command -v "$$python"; exit; fi; \
    done; \
done)

PYTHON ?= $(call find_python,3.11 3.12 3.13)
PYTHON_ARVIZ1 ?= $(call find_python,3.12 3.13 3.14)

# What ArviZ 1.x is tested with.  No torch: a download of gigabytes for modules that do without it.
ARVIZ1_PACKAGES := arviz filelock h5netcdf h5py hypothesis lazy-loader numpy pandas pandera pyarrow pytest scikit-learn scipy tqdm
ARVIZ1_TESTS := tests/evidence/test_to_arviz.py tests/data tests/evidence/test_identifiability.py tests/synthetic

PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-arviz1 lint docs notebooks clean

demo: .venv/runtime/ready
	.venv/runtime/bin/pyro-hmvcrl demo --out demo-run

test: lint
	.venv/test/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
	@$(MAKE) --silent test-arviz1

test-arviz1:
	@if [ -n "$(PYTHON_ARVIZ1)" ]; then \
	    $(MAKE) --silent .venv/arviz1/ready && \
	    echo "Against ArviZ 1.x:" && \
	    PYTHONPATH=. .venv/arviz1/bin/python -m pytest $(ARVIZ1_TESTS); \
	else \
	    echo "*** SKIPPED: the tests against ArviZ 1.x need Python 3.12 or newer, and none was found (set PYTHON_ARVIZ1) ***"; \
	fi

lint: .venv/test/ready
	.venv/test/bin/ruff check .
	.venv/test/bin/ruff format --check .
	.venv/test/bin/mypy

# The front page is README.md; guides, notebooks as they ran, studies and docstrings follow.
docs: .venv/test/ready
	.venv/test/bin/python -m sphinx -q -W --keep-going docs docs/_build/html
	@echo "Look at it: docs/_build/html/index.html"

# Makes each notebook of its text anew, and keeps its outputs.
notebooks: .venv/notebooks/ready
	.venv/notebooks/bin/jupytext --quiet --update --to ipynb notebooks/*.py
	cd notebooks && OMP_NUM_THREADS=1 ../.venv/notebooks/bin/jupyter nbconvert --log-level=WARN \
	    --KernelManager.transport=ipc --ExecutePreprocessor.record_timing=False --to notebook --execute --inplace *.ipynb

clean:
	rm -rf .venv build demo-run docs/_build docs/_thumbnails docs/notebooks docs/simulations *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find pyro_hmvcrl tests -name __pycache__ -prune -exec rm -rf {} +

EXTRA_runtime :=
EXTRA_test := [test]
EXTRA_notebooks := [notebooks]

.venv/arviz1/ready: pyproject.toml constraints.txt
	@echo "Making $(@D) with $(PYTHON_ARVIZ1)"
	@"$(PYTHON_ARVIZ1)" -m venv --clear $(@D)
	@$(@D)/bin/python $(PIP_INSTALL) $(ARVIZ1_PACKAGES)
	@touch $@

.venv/%/ready: pyproject.toml constraints.txt
	@python="$(PYTHON)"; \
	if [ -z "$$python" ]; then \
	    echo "Python 3.11, 3.12 or 3.13 (with its venv module) is needed, and none was found on PATH or under pyenv." >&2; \
	    echo "Install one, or name it: make PYTHON=/path/to/python" >&2; \
	    exit 1; \
	fi; \
	echo "Making $(@D) with $$python"; \
	"$$python" -m venv --clear $(@D)
	@$(@D)/bin/python $(PIP_INSTALL) --editable '.$(EXTRA_$*)'
	@touch $@
