# `make help` lists what can be done. Everything lands in .venv and .cache.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CACHE := .cache
NODES := $(CACHE)/nodes
MODERN := 12.22.12 14.21.3 16.20.2 18.20.8 20.20.2 22.23.3 24.15.0 26.10.0
LEGACY := 0.10.48 0.12.18 4.9.1 6.17.1 8.17.0 10.24.1
# First patch releases and lines without long-term support.
ODD := 6.0.0 11.0.0 12.0.0 15.0.0 16.0.0 19.0.0 22.0.0 23.0.0 25.0.0
# Suites of Debian, and versions of Linux in them.
KERNELS ?= bullseye bookworm trixie sid
export JSSPY_NODES ?= $(abspath $(NODES))
JOBS ?= 2
REAL := tests/live tests/consumers tests/browser
BESIDE = -n $(JOBS) --dist worksteal
# Targets, browsers and profilers share few CPUs while tests run beside each other. What fails then is
# run again with nothing beside it, twice at most, and has to pass.
AGAIN = --last-failed --last-failed-no-failures none

.PHONY: help example check test unit live consumers docs man browser bench kernels bpf nodes clean format

help: ## list what can be done
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

example: $(VENV)/installed ## profile the bundled example application and say where the flame graph is
	@sh examples/run.sh $(BIN)/jsspy

test: shells-installed check docs nodes consumers-installed programs-installed perf-installed browser-installed ## all tests, on every node version
	$(BIN)/pytest -q $(BESIDE) $(REAL) || $(BIN)/pytest -q $(AGAIN) $(REAL) || $(BIN)/pytest -q $(AGAIN) $(REAL)

check: $(VENV)/developing ## format, lint, types, import contracts, unit tests: no privileges
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q -n $(JOBS) tests/unit || $(BIN)/pytest -q $(AGAIN) tests/unit

unit: $(VENV)/developing ## unit tests only
	$(BIN)/pytest -q tests/unit

live: $(VENV)/developing nodes programs-installed perf-installed ## tests on real node processes; NODES="20 24" chooses versions
	$(BIN)/pytest -q tests/live

consumers: $(VENV)/developing consumers-installed perf-installed ## other people's readers on our files
	$(BIN)/pytest -q tests/consumers

docs: $(VENV)/documented ## build the documentation, .cache/site; broken links are errors
	$(BIN)/mkdocs build --strict  # with --quiet it would not see its own warnings

man: $(VENV)/installed ## write the manual page, .cache/jsspy.1
	@mkdir -p $(CACHE)
	$(BIN)/python tools/man_page.py $(CACHE)/jsspy.1

browser: $(VENV)/developing browser-installed ## the viewer in Chromium
	$(BIN)/pytest -q tests/browser

bench: $(VENV)/developing nodes perf-installed ## cost of jsspy and of other profilers, against bench/budget.toml (20 minutes)
	$(BIN)/python bench/run.py

kernels: $(VENV)/developing nodes qemu-installed ## every engine under other kernels, emulated (3 minutes each); KERNELS="bookworm/6.1" chooses
	$(BIN)/python tools/try_kernels.py $(CACHE)/kernels $(KERNELS)

bpf: $(VENV)/developing ## compile the program for the kernel again
	$(BIN)/python setup.py --quiet build_bpf

nodes: $(VENV)/installed ## fetch the node versions that tests use
	@$(BIN)/python tools/fetch_nodes.py $(JSSPY_NODES) $(MODERN) $(LEGACY) $(ODD)
	@$(BIN)/python tools/fetch_distributions.py $(JSSPY_NODES)/distributions

format: $(VENV)/developing ## format the sources
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove everything that make made
	rm -rf $(VENV) $(CACHE) build dist

# PROGRAM:PACKAGE of the distribution, for what is not there yet; only root can install it.
define from_distribution
@wanted=$$(for pair in $(1); do command -v $${pair%:*} >/dev/null || echo $${pair#*:}; done); \
  [ -z "$$wanted" ] || [ "$$(id -u)" != 0 ] || { apt-get update -qq && \
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$wanted >/dev/null; }
endef

# FlameGraph's other scripts are in no package of Debian, npm or PyPI.
.PHONY: consumers-installed browser-installed shells-installed qemu-installed
consumers-installed: $(CACHE)/consumers/installed
	$(call from_distribution,/usr/share/perl5/Devel/NYTProf/flamegraph.pl:libdevel-nytprof-perl \
	  prometheus:prometheus go:golang-go)

qemu-installed:
	$(call from_distribution,qemu-system-x86_64:qemu-system-x86)

shells-installed:
	$(call from_distribution,zsh:zsh fish:fish)

$(CACHE)/consumers/installed: tests/consumers/package.json
	mkdir -p $(CACHE)/consumers
	cp tests/consumers/package.json $(CACHE)/consumers/
	cd $(CACHE)/consumers && npm install --silent --no-audit --no-fund --no-package-lock
	touch $@

.PHONY: programs-installed perf-installed
programs-installed: $(CACHE)/programs/installed

$(CACHE)/programs/installed: tests/programs/package.json
	mkdir -p $(CACHE)/programs
	cp tests/programs/package.json $(CACHE)/programs/
	cd $(CACHE)/programs && npm install --silent --no-audit --no-fund --no-package-lock
	touch $@

perf-installed:
	$(call from_distribution,perf:linux-perf g++:g++)

browser-installed:
	$(call from_distribution,chromium:chromium tmux:tmux)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml constraints.txt setup.py bpf/walk.bpf.c bpf/abi.h
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/documented: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

$(VENV)/developing: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
