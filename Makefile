# make quickstart   install, train, bound and sample a small model (about six minutes on two cores)
# make test         install and run the test suite: of tests with many alike cases, one of each kind
# make test-all     install and run all cases, as CI does
# make test-fast    the part of it that compiles little, for the inner loop
# make lint         ruff, and pyright over the types (half a minute)
# make docs         build the documentation site into build/site (a quarter of a minute)
# make notebooks    execute the scripts of docs/notebooks/ and write their .ipynb anew (a quarter of an hour)
# make lock         write requirements.lock anew from setup.py

PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: quickstart test test-all test-fast lint docs notebooks lock clean

.venv/ready: requirements.lock setup.py
	@if command -v uv > /dev/null; then \
	  uv venv --quiet --allow-existing --python $(PYTHON) .venv && \
	  uv pip install --quiet --python $(BIN)/python --require-hashes --requirement requirements.lock && \
	  uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --config-setting editable_mode=compat --editable . ; \
	else \
	  $(PYTHON) -m venv .venv && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --config-settings editable_mode=compat --editable . ; \
	fi
	@touch $@

quickstart: .venv/ready
	@$(BIN)/python -m experiments.quickstart

test: .venv/ready
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --representatives

test-all: .venv/ready
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# What trains nothing: the mathematics of schedules and steps, identities between methods, a toy enumerated, a
# sampler whose distribution is exact, and all that reads settings and files.
FAST := layout overview completion overrides schedules small_steps optimization identities enumeration reading \
  vocabularies files progress records trace_page
EXACT := tests/test_first_hitting.py::test_first_hitting_is_the_distribution_of_the_data_in_one_call_a_token

test-fast: .venv/ready
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(FAST:%=tests/test_%.py) $(EXACT)

lint: .venv/ready
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright

# A warning is an error (--quiet would drop it before it is counted), and so is what a page would fetch from elsewhere.
docs: .venv/ready
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@! grep -rlE --include='*.html' '<(script|link|img)[^>]* (src|href)="?(https?:)?//' build/site
	@echo build/site/index.html

notebooks: .venv/ready
	@$(BIN)/python docs/notebook_pages.py

lock: .venv/ready
	@uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate \
	  --python-version 3.11 --extra test --extra docs --extra notebooks --extra build setup.py --output-file requirements.lock

clean:
	rm -rf .venv
