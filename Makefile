# One environment a checkout, made once. `make demo` and `make test` need nothing but Python 3.11+ and a package registry.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
BIN    := $(VENV)/bin
FACTS  := settings.ini setup.py pyproject.toml
SEEDS  ?= 1
CLASS  ?= 200

.PHONY: help demo test lab class course-class docs notebooks readme samples study study-small clean

help: ## Show what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# uv resolves and links in seconds what pip copies in minutes; pip does the same job where uv cannot.
define install
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv || true
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '$(1)' || $(BIN)/python -m pip install --quiet --editable '$(1)'
	touch $@
endef

$(VENV)/.core: $(FACTS)
	@echo "Making the environment in $(VENV) (about 6 GB, a few minutes, once) ..."
	$(call install,.)

$(VENV)/.lab: $(FACTS) | $(VENV)/.core
	$(call install,.[lab])
	$(BIN)/jupyter labextension disable --level=sys_prefix @jupyterlab/apputils-extension:announcements  # asks about news of another house

$(VENV)/.docs: $(FACTS) | $(VENV)/.core
	$(call install,.[docs])

$(VENV)/.dev: $(FACTS) | $(VENV)/.core
	$(call install,.[dev])

demo: $(VENV)/.core ## Pretrain IIVDR and SimCLR on data_samples/, measure them, write demo/report.html (SEEDS=3 for the spread)
	$(BIN)/ivdr demo --seeds $(SEEDS) --out demo

test: $(VENV)/.dev ## Run every notebook and every test, in a real browser too (installs one where it can)
	$(BIN)/python -m ipykernel install --sys-prefix --name python3 >/dev/null 2>&1
	$(BIN)/python tests/system_browser.py
	PATH="$(CURDIR)/$(BIN):$$PATH" OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

# for this machine only; the first walkthrough open, all of them listed beside it
LAB := --ip=127.0.0.1 --ServerApp.root_dir=nbs --LabApp.default_url=/lab/tree/walkthroughs/$(notdir $(firstword $(sort $(wildcard nbs/walkthroughs/*.ipynb)))) \
	$(if $(filter 0,$(shell id -u)),--allow-root)

lab: $(VENV)/.lab ## Open JupyterLab on the walkthroughs (LAB_OPTIONS=--no-browser where there is no screen)
	$(BIN)/jupyter lab $(LAB) $(LAB_OPTIONS)

class: $(VENV)/.lab ## Show rankings and maps to a class: a page without code, on this machine, at the address with its token that is printed
	$(BIN)/voila nbs/walkthroughs/class_page.ipynb --Voila.ip=127.0.0.1 --token

course-class: $(VENV)/.dev ## Grade a class of 200 made-up submissions on two cores and say how long one takes (CLASS=20 for fewer)
	OMP_NUM_THREADS=1 IVDR_CLASS=$(CLASS) $(BIN)/python -m pytest tests/test_course.py -k whole_class --timeout 7200

docs: $(VENV)/.docs ## Write the documentation site, to be read without a network: _docs/index.html
	$(BIN)/python docs/make.py

notebooks: $(VENV)/.dev ## Export, re-run and clean every notebook, after editing one
	PATH="$(CURDIR)/$(BIN):$$PATH" nbdev-export
	for notebook in nbs/*.ipynb nbs/walkthroughs/*.ipynb; do IVDR_WIDGETS=static OMP_NUM_THREADS=2 $(BIN)/python -m nbconvert --to notebook --execute --inplace \
	    --ExecutePreprocessor.store_widget_state=False $$notebook; done
	PATH="$(CURDIR)/$(BIN):$$PATH" nbdev-clean
	$(MAKE) readme

readme: $(VENV)/.dev ## Write README.md from nbs/index.ipynb
	$(BIN)/python -m nbconvert --to markdown nbs/index.ipynb --stdout | sed -E 's@\]\((images/|walkthroughs/|[0-9]{2}_)@](nbs/\1@g; s@\]\(\.\./@](@g' | cat -s > README.md.new
	mv README.md.new README.md

samples: $(VENV)/.core ## Render data_samples/ anew (deterministic)
	rm -rf data_samples.new && $(BIN)/ivdr render $(SAMPLES) --out data_samples.new

STUDY  := nbs/walkthroughs/study
SMALL  := SimCLR; SimCLR + SR; IIVDR; SR alone
DIAL   := SimCLR + TC; IIVDR, contrast x 0.1

study: $(VENV)/.core ## Run the whole study from nothing (three hours on two cores) and keep its tables in nbs/walkthroughs/study
	$(BIN)/ivdr compare --recipe study --out study
	for set in study/correlation-*; do cp $$set/table.json $(STUDY)/$$(basename $$set).json; done
	cp study/curves.csv $(STUDY)/

study-small: $(VENV)/.core ## Train the six networks that are shipped (a quarter of an hour on two cores, none after `make study`), measure them on data_samples
	$(BIN)/ivdr compare --recipe study --methods '$(SMALL); $(DIAL)' --correlations 0 --seeds 1 --out study
	rm -rf $(STUDY)/networks nbs/walkthroughs/dial
	$(BIN)/ivdr export $(addprefix study/correlation-0/,simclr-s0 simclr-+-sr-s0 iivdr-s0 sr-alone-s0) --data data_samples --out $(STUDY)/networks
	$(BIN)/ivdr export $(addprefix study/correlation-0/,simclr-+-tc-s0 iivdr-contrast-x-0.1-s0) --data data_samples --out nbs/walkthroughs/dial/networks

clean: ## Remove the environment, caches and outputs of the demo
	rm -rf $(VENV) build dist *.egg-info demo runs _proc _docs .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
