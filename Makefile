# `make help` lists the targets: whatever stands behind ## beside one is its line there.
# Most install into .venv first, once: the stamp below is newer than what it was made from.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo lab lab-serve test slow coverage notebooks handouts lint format architecture showreel site site-serve doctor lock hashes clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## the locked packages and the kit itself, into .venv

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python " + sys.version.split()[0] + " is too old: install 3.11, or name one with make PYTHON=python3.11")'
	@echo 'installing into $(VENV): some minutes, once'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -qq -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check -qq --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP) ## the app in the browser, on the shipped CIFAR-10 model
	$(BIN)/ecar app

lab: $(STAMP) ## builds the page on which the model runs in the browser, build/lab (needs npm)
	$(BIN)/python -m docs.build_lab --out build/lab

.PHONY: lab-serve
lab-serve: $(STAMP) ## shows that page on this machine
	$(BIN)/python -m docs.serve_lab --folder build/lab

# JupyterLab refuses root, which in a container is everybody, unless it is told.
notebooks: $(STAMP) ## JupyterLab, opened at the first notebook
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) notebooks/00_start_here.ipynb

# One thread per worker: two workers with two threads each would fight over two cores. A worker with
# nothing left takes tests from the other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

test: lint ## lint, then every test
	$(PYTEST)

# TESTS=tests/notebooks takes a part of them.
slow: $(STAMP) ## every test as on a CPU without AVX-512 and bfloat16, one core busy
	@while :; do :; done & busy=$$!; trap "kill $$busy" EXIT INT TERM; \
	  ONEDNN_MAX_CPU_ISA=AVX2 DNNL_DEFAULT_FPMATH_MODE=STRICT ATEN_CPU_CAPABILITY=avx2 \
	  $(PYTEST) $(TESTS)

coverage: $(STAMP) ## every test, and which lines and branches of the kit they reach
	$(PYTEST) --cov --cov-report=term

handouts: $(STAMP) ## slides and a page to print for each notebook, in build/handouts
	$(BIN)/python notebooks/build.py --handouts build/handouts

lint: $(STAMP) ## style, formatting, types, which way imports run, workflows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check
	$(BIN)/lint-imports --no-cache
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/zizmor --offline --quiet .github/workflows

format: $(STAMP) ## puts style and formatting right where a tool can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

architecture: $(STAMP) ## draws docs/architecture.svg anew from the imports
	$(BIN)/python -m docs.draw_architecture

showreel: $(STAMP) ## takes the moving picture of the app for the README, docs/app.png
	$(BIN)/python -m docs.draw_app

# With the page on which the model runs, where that was built.
site: $(STAMP) ## the docs as pages in build/site, warnings as errors
	$(BIN)/sphinx-build -c docs -d build/doctrees -W --keep-going -q . build/site
	$(BIN)/python -m docs.join_lab build/lab build/site
	$(BIN)/python -m docs.check_site build/site

site-serve: site ## the same, shown on this machine, port 8000
	$(BIN)/python -m docs.serve_lab --folder build/site --port 8000

doctor: $(STAMP) ## what is here, what is wrong, and the remedy
	$(BIN)/ecar doctor

# Resolves the ranges of pyproject.toml anew, in a throw-away environment, and pins what comes out.
# A "+cpu" is cut off: which build of torch it is is the installing machine's business.
lock: ## resolves the ranges of pyproject.toml anew into requirements.lock
	rm -rf $(VENV)-lock
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet -e '.[dev]'
	@{ echo '# The versions that this kit is tested with, Python 3.11. `make lock` writes this file.'; \
	   echo '# pip install -r requirements.lock && pip install --no-deps -e .'; \
	   $(VENV)-lock/bin/python -m pip freeze --all --exclude-editable \
	     | sed -e '/^pip==/d' -e 's/+[a-z0-9.]*$$//' | LC_ALL=C sort -f; } > requirements.lock.new
	mv requirements.lock.new requirements.lock
	rm -rf $(VENV)-lock

# 3.11.5, since some locked versions do not take the first of 3.11.
hashes: ## writes requirements.hashes.lock, the same versions with the hash of every file, by uv
	rm -rf $(VENV)-lock
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet uv
	@{ sed '/^[^#]/,$$d' requirements.hashes.lock; \
	   $(VENV)-lock/bin/uv pip compile --quiet --universal --python-version 3.11.5 --generate-hashes \
	     --no-header --no-annotate --no-emit-index-url requirements.lock; } > requirements.hashes.lock.new
	mv requirements.hashes.lock.new requirements.hashes.lock
	rm -rf $(VENV)-lock

clean: ## removes .venv and what a build leaves
	rm -rf $(VENV) build site/node_modules *.egg-info
