# Where Bias Hides. `make help` lists what there is. Needs only Python 3.11 or newer, make and git.
PYTHON ?= python3
TORCH  ?=
PIP     = .venv/bin/python -m pip --disable-pip-version-check
ifeq ($(TORCH),cpu)
INDEX   = --extra-index-url https://download.pytorch.org/whl/cpu
endif
# The environment is ready when this stamp is there; its name changes with what is to be installed.
READY  := .venv/.ready-$(shell cat requirements.txt pyproject.toml | cksum | cut -d' ' -f1)
OLDEST := .venv-oldest/.ready-$(shell cat requirements.txt pyproject.toml tests/oldest.py | cksum | cut -d' ' -f1)
BENCH  := .venv-bench/.ready-$(shell cat benchmarks/requirements.txt 2>/dev/null | cksum | cut -d' ' -f1)
PYTHON313 ?= python3.13
PYTEST  = .venv/bin/python -m pytest -q
# Two processes; a file stays in one of them, so that what its tests share is made once.
SIDE_BY_SIDE = -n 2 --dist loadfile
PIP_OLDEST = .venv-oldest/bin/python -m pip --disable-pip-version-check
# Old releases deprecate nothing of ours: they use what newer releases of their own dependencies deprecate.
OLD_WARNINGS = -W default::DeprecationWarning -W default::PendingDeprecationWarning -W default::FutureWarning
# nbgrader asks for a newer IPython than Colab's: making and grading sheets is an instructor's work, not done there.
NO_NBGRADER = --ignore=tests/test_classroom_grade.py --ignore=tests/test_classroom_sheets.py --deselect=tests/test_cli.py::test_classroom_builds_and_says_plainly_what_is_missing
COLAB_INDEX = $(if $(INDEX),--index $(lastword $(INDEX)))
CHECK_PYTHON = import sys; sys.exit(sys.version_info < (3, 11))
NEEDS_PYTHON = This needs Python 3.11 or newer, and $(PYTHON) is not. Name one that is: make PYTHON=python3.11
NEEDS_VENV = $(PYTHON) could not make a virtual environment. On Debian or Ubuntu: apt install python3-venv. Then run make again.
NEEDS_NET = The installation stopped before all was there (see above). Check network and disk space and run make again: it goes on from here.

.DEFAULT_GOAL := help
.PHONY: help env book test pages shots pdf zip preview colab guards claims bench test-oldest classroom bench-classroom address samples clean

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/  make \1@\2/' | awk -F@ '{printf "%-20s %s\n", $$1, $$2}'

env: $(READY)  ## only install what the others need, in .venv

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c '$(CHECK_PYTHON)' 2>/dev/null || { echo '$(NEEDS_PYTHON)'; exit 1; }
	@.venv/bin/python -c '$(CHECK_PYTHON)' 2>/dev/null || $(PYTHON) -m venv --clear .venv || { echo '$(NEEDS_VENV)'; exit 1; }
	@echo 'Installing into .venv ...'
	@$(PIP) install -qq $(INDEX) -r requirements.txt && $(PIP) install -qq --no-deps -e . || { echo '$(NEEDS_NET)'; exit 1; }
	@rm -f .venv/.ready-*
	@touch $@

book: $(READY)  ## run every chapter and build the book (CHAPTER=01: only that one)
	@.venv/bin/python book/build.py $(if $(CHAPTER),--chapter $(CHAPTER))

test: $(READY)  ## style, import contract, unit tests, every chapter with small parameters
	@.venv/bin/ruff check .
	@.venv/bin/lint-imports
	@$(PYTEST) $(SIDE_BY_SIDE) tests --ignore=tests/pages

pages: $(READY)  ## look at the built book with a browser: offline, accessible, phone width, dark, explorers
	@$(PYTEST) tests/pages

shots: $(READY)  ## save pictures of every page, desktop and phone, light and dark (PAGE=01: only that one)
	@.venv/bin/python tests/pages/shots.py $(PAGE)

pdf: $(READY)  ## the built book as one PDF, printed by a browser, with links that jump inside it
	@.venv/bin/python book/pdf.py

zip: $(READY)  ## the built book as one archive to unpack and open without a network
	@.venv/bin/python book/downloads.py

preview: $(READY)  ## what differs from another state of the book, old and new side by side (BASE=main)
	@.venv/bin/python book/preview.py $(or $(BASE),main)

colab: $(READY)  ## the set-up cell of each chapter and sheet as Colab runs it (CHAPTER=01; ONLY=sheets; FULL=1: Python 3.13 and CUDA torch, 5.5 GB)
	@.venv/bin/python tests/colab.py $(CHAPTER) $(if $(ONLY),--only $(ONLY)) $(if $(FULL),--python $(PYTHON313) --torch 2.11.0,$(COLAB_INDEX))

test-oldest: $(READY) $(OLDEST)  ## the tests with the oldest versions we allow, in an environment of their own
	@.venv-oldest/bin/python -m pytest -q $(SIDE_BY_SIDE) $(OLD_WARNINGS) $(NO_NBGRADER) tests --ignore=tests/pages

$(OLDEST): requirements.txt pyproject.toml tests/oldest.py
	@echo 'Installing the oldest versions into .venv-oldest ...'
	@.venv/bin/python -m venv --clear .venv-oldest
	@.venv/bin/python tests/oldest.py > .venv-oldest/requirements.txt
	@$(PIP_OLDEST) install -qq $(INDEX) -r .venv-oldest/requirements.txt && $(PIP_OLDEST) install -qq --no-deps -e . || { echo '$(NEEDS_NET)'; exit 1; }
	@touch $@

guards: $(READY)  ## plant each fault we guard against in a copy and demand that a check turns red
	@test -e book/_build/html/index.html || .venv/bin/python book/build.py
	@.venv/bin/python tests/guards.py

claims: $(READY)  ## repeat the stored runs behind "Does it hold?" (CHAPTER=01 SEEDS=0:10; FULL=1: the long ones too)
	@.venv/bin/python -m bias_tutorial.claims run $(or $(CHAPTER),all) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(FULL),--full)

bench: $(READY) $(BENCH)  ## measure speed: the simulator against SimpleITK and ANTs (0.9 GB), training, sweeps, components, Learning Not to Learn, resampling
	@failed=0; for part in benchmarks benchmarks.training benchmarks.sweep benchmarks.pca benchmarks.lnl benchmarks.resampling; do .venv/bin/python -m $$part || failed=1; done; exit $$failed

$(BENCH): benchmarks/requirements.txt
	@echo 'Installing the reference into .venv-bench ...'
	@.venv/bin/python -m venv --clear .venv-bench
	@.venv-bench/bin/python -m pip --disable-pip-version-check install -qq -r $< || { echo '$(NEEDS_NET)'; exit 1; }
	@touch $@

classroom: $(READY)  ## make the exercise sheets and their solutions in dist/classroom (SEED=7: other numbers, for a class of its own)
	@.venv/bin/bias-tutorial classroom build $(if $(SEED),--seed $(SEED))

bench-classroom: $(READY)  ## grade 200 submissions of every kind, kill the grading once, continue, and look for a lost one
	@.venv/bin/python -m benchmarks.grading $(if $(N),--n $(N))

address:  ## write the public address everywhere (URL=https://github.com/you/where-bias-hides REF=main); checks it without
	@$(PYTHON) book/address.py $(if $(URL),--url $(URL)) $(if $(REF),--ref $(REF))

samples: $(READY)  ## make data/samples again
	@rm -rf book/_build/samples && mkdir -p book/_build && .venv/bin/python tests/make_samples.py book/_build/samples
	@rm -rf data/samples && mv book/_build/samples data/samples

clean:  ## remove what was built (the environments stay)
	@rm -rf book/_build
