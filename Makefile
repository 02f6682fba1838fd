# Hearth from a fresh clone: `make chat` to talk, `make test` to check. All lands in .venv.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --no-input
LOCK := requirements.lock

.PHONY: help chat test chaos lint bench lock clean
.DEFAULT_GOAL := help

help:
	@echo "make chat    install Hearth here, fetch the demo model (93 MB), open a chat"
	@echo "make test    install with the development tools and run the tests"
	@echo "make chaos   attack a node in every way we know (15 minutes)"
	@echo "make lint    style, formatting and types"
	@echo "make bench   a quick version of the measurements in docs/ (15 minutes)"
	@echo "make lock    pin the newest versions of all packages in $(LOCK)"
	@echo "make clean   remove $(VENV) and caches (models stay)"
	@echo
	@echo "PYTHON=... picks the interpreter (3.11 or newer); now: $(PYTHON)"

chat: $(VENV)/.runtime
	@$(VENV)/bin/hearth models pull demo > /dev/null
	@echo "hearth is $(VENV)/bin/hearth here; README.md says how to have it everywhere"
	@$(VENV)/bin/hearth chat

test: $(VENV)/.dev
	@$(VENV)/bin/hearth models pull demo
	$(PY) -m pytest

chaos: $(VENV)/.dev
	HEARTH_CHAOS=full $(PY) -m pytest tests/chaos --timeout 900
	$(PY) -m tests.chaos.fuzz_codec --inputs 10000000

lint: $(VENV)/.dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

bench: $(VENV)/.dev
	$(PY) -m tests.bench --quick

lock: $(VENV)/.dev
	@$(PIP) install -q --upgrade --upgrade-strategy eager -e '.[dev]'
	@{ sed -n '/^#/p' $(LOCK); $(PIP) freeze --exclude-editable | tr 'A-Z_' 'a-z-' \
	  | grep -E '^[a-z0-9.-]+==' | sort; } > $(VENV)/lock
	@cp $(VENV)/lock $(LOCK)
	@touch $(VENV)/.runtime $(VENV)/.dev
	@echo "$(LOCK) holds the newest versions, which are in $(VENV) now"

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Hearth needs Python 3.11 or newer; '$(PYTHON)' is not. Try: make PYTHON=python3.12 ..."; \
	  exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make virtual environments."; \
	  echo "On Debian and Ubuntu: sudo apt install python3-venv build-essential"; \
	  exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) -V)"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.runtime: $(VENV)/.created pyproject.toml $(LOCK)
	@$(PY) .ci/install_llama.py $(LOCK)
	@echo "Installing Hearth and what it needs"
	@$(PIP) install -q -c $(LOCK) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@echo "Installing the development tools"
	@$(PIP) install -q -c $(LOCK) -e '.[dev]'
	@touch $@
