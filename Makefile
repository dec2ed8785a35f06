# Where Bias Hides. `make help` lists what there is. Needs only Python 3.11 or newer, make and git.
PYTHON ?= python3
TORCH  ?=
PIP     = .venv/bin/python -m pip --disable-pip-version-check
ifeq ($(TORCH),cpu)
INDEX   = --extra-index-url https://download.pytorch.org/whl/cpu
endif
# The environment is ready when this stamp is there; its name changes with what is to be installed.
READY  := .venv/.ready-$(shell cat requirements.txt pyproject.toml | cksum | cut -d' ' -f1)
CHECK_PYTHON = import sys; sys.exit(sys.version_info < (3, 11))
NEEDS_PYTHON = This needs Python 3.11 or newer, and $(PYTHON) is not. Name one that is: make PYTHON=python3.11
NEEDS_VENV = $(PYTHON) could not make a virtual environment. On Debian or Ubuntu: apt install python3-venv. Then run make again.
NEEDS_NET = The installation stopped before all was there (see above). Check network and disk space and run make again: it goes on from here.

.DEFAULT_GOAL := help
.PHONY: help env book test pages shots colab guards claims bench test-oldest address samples clean

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/  make \1@\2/' | awk -F@ '{printf "%-20s %s\n", $$1, $$2}'

env: $(READY)  ## only install what the others need, in .venv

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c '$(CHECK_PYTHON)' 2>/dev/null || { echo '$(NEEDS_PYTHON)'; exit 1; }
	@.venv/bin/python -c '$(CHECK_PYTHON)' 2>/dev/null || $(PYTHON) -m venv --clear .venv || { echo '$(NEEDS_VENV)'; exit 1; }
	@$(PIP) install --quiet $(INDEX) -r requirements.txt && $(PIP) install --quiet --no-deps -e . || { echo '$(NEEDS_NET)'; exit 1; }
	@rm -f .venv/.ready-*
	@touch $@

book: $(READY)  ## run every chapter and build the book (CHAPTER=01: only that one)
	@.venv/bin/python book/build.py $(if $(CHAPTER),--chapter $(CHAPTER))
