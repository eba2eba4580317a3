# Everything from a fresh clone with Python 3.11 or newer and make; `make help` lists the verbs.
#
# The environment is made once, in .venv, and again when pyproject.toml or constraints.txt change or
# the folder moves; what only tests, linters or benchmarks need comes with the first of them.
# Dagster keeps its records in $DAGSTER_HOME, ./.dagster unless you set it; those of the demo lie
# under ./demo.

PYTHON ?= python3
UI ?= 1
PORT ?= 3000
PYTEST_ARGS ?=
BENCH_ARGS ?=
DAGSTER_HOME ?= $(CURDIR)/.dagster
export DAGSTER_HOME

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
REQUIREMENTS := pyproject.toml constraints.txt
CHECKED_TESTS := klaviyo_assets_tests/unit klaviyo_assets_tests/contract

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test check dev lint format bench docs clean moved

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' Makefile | expand -t 10

install: $(VENV)/.installed ## the environment, in .venv

# The stamp holds the folder it was made in: an editable install points at its folder.
ifneq "$(shell cat $(VENV)/.installed 2>/dev/null)" "$(CURDIR)"
$(VENV)/.installed: moved
endif

# pip says nothing for a minute, or everything: a dot for each package, and all it said if it fails.
# It would compile one file after the other; compileall takes every processor. What it cannot
# compile, such as examples of other Pythons' syntax, pip does not mind either.
define pip_install
@{ $(PIP) install --no-compile -c constraints.txt $(1); echo "pip ended with $$?"; } 2>&1 | awk ' \
  /^pip ended with / { status = $$4; next } \
  { said = said $$0 "\n" } \
  /^(Collecting|  Downloading|Installing)/ { printf "."; fflush() } \
  END { print ""; if (status != 0) { printf "%s", said; exit status } }'
@$(PY) -m compileall -qq -j 0 $(VENV)/lib || true
endef

# Built without isolation, on the pinned setuptools: an isolated build would fetch the newest one.
# The pip that comes with Python 3.11 takes twice as long to install as the pinned one.
$(VENV)/.installed: $(REQUIREMENTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "klaviyo_assets needs Python 3.11 or newer; '$(PYTHON)' says:" \
	    "$$($(PYTHON) --version 2>&1 || true). Name another one: make PYTHON=python3.12" >&2; \
	  exit 1; }
	@echo "Installing into $(VENV), for a minute or so"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PIP) install -qq -c constraints.txt pip setuptools
	$(call pip_install,--no-build-isolation -e .)
	@rm -f $(VENV)/.installed-*
	@echo "$(CURDIR)" > $@

$(VENV)/.installed-%: $(VENV)/.installed
	@echo "Installing what make $* needs"
	$(call pip_install,--no-build-isolation -e '.[$*]')
	@touch $@

# Migrated once for each installation, before anything starts several processes that would all
# create Dagster's database.
define dagster_home
@mkdir -p "$(1)"
@test -f "$(1)/dagster.yaml" || cp deploy/dagster.yaml "$(1)/dagster.yaml"
@test "$(1)/.migrated" -nt $(VENV)/.installed || { \
  DAGSTER_HOME="$(1)" $(QUIET) $(PY) -m dagster instance migrate >/dev/null && \
  touch "$(1)/.migrated"; }
endef

# Dagster says of some of its own features that they are in beta.
QUIET := PYTHONWARNINGS=ignore

demo: install ## a sandbox Klaviyo, every asset, a query, the UI (UI=0: without it)
	@rm -rf demo
	$(call dagster_home,$(CURDIR)/demo/dagster)
	@env -u PYTHONDONTWRITEBYTECODE DAGSTER_HOME="$(CURDIR)/demo/dagster" $(QUIET) \
	  $(PY) deploy/demo.py --ui $(UI) --port $(PORT)

# Bytecode is kept, whatever the shell says: without it four workers each compile all the tests.
# A worker takes a whole file, so that what its tests share is made once.
test: $(VENV)/.installed-test ## the whole test suite (PYTEST_ARGS='-k ledger')
	@env -u PYTHONDONTWRITEBYTECODE $(PY) -m pytest -n 4 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# The types are checked while the tests run: they take half as long, and only one processor.
check: $(VENV)/.installed-test $(VENV)/.installed-lint ## in a minute: lint, types, unit, contract tests
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(VENV)/bin/lint-imports --no-logo
	@$(PY) -m basedpyright >$(VENV)/.types.log 2>&1 & checker=$$!; \
	trap 'kill $$checker 2>/dev/null' EXIT; \
	$(PY) -m pytest -q -n 2 $(CHECKED_TESTS) $(PYTEST_ARGS); tests=$$?; \
	wait $$checker; types=$$?; cat $(VENV)/.types.log; \
	exit $$((tests || types))

dev: install ## the Dagster UI and daemon on http://127.0.0.1:3000 (PORT=3000)
	$(call dagster_home,$(DAGSTER_HOME))
	@echo "The Dagster UI comes up on http://127.0.0.1:$(PORT); Ctrl-C ends it."
	@$(QUIET) $(PY) -m dagster dev -w workspace.yaml -h 127.0.0.1 -p $(PORT) --log-level warning

lint: $(VENV)/.installed-test $(VENV)/.installed-lint ## format, linter, types, import fences
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(PY) -m basedpyright
	@$(VENV)/bin/lint-imports --no-logo
	@$(PY) -m pytest -q -p no:cacheprovider klaviyo_assets_tests/contract/test_shape.py

format: $(VENV)/.installed-lint ## let ruff format and fix what it can
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix-only .

bench: $(VENV)/.installed-test $(VENV)/.installed-bench ## benchmarks, beside dlt (BENCH_ARGS=...)
	@$(PY) -m klaviyo_assets_tests.benchmarks $(BENCH_ARGS)

docs: $(VENV)/.installed-docs ## the docs as a site, in site/; a link that leads nowhere fails
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

clean: ## remove the environment, the caches and the demo; your data stays
	rm -rf $(VENV) build site *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
