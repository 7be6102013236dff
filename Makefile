# Every target sets itself up: .venv is made and filled when it is missing or older than what it is made from.
PYTHON ?= python3
PY := .venv/bin/python
READY := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help run test test-browser lint sweep report accuracy bench docs clean

help: ## show this help
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,eth3d]'
	@touch $@

run: $(READY) ## quantize the default model, compare it with FP32, leave a record and a picture
	$(PY) -m vggtq.run $(ARGS)

# One thread for each of the processes: on two cores 5:47 min, where one process with two threads took 11:14.
test: $(READY) ## run all tests, four at a time where there are as many cores
	OMP_NUM_THREADS=1 $(PY) -m pytest -n logical --maxprocesses 4 --dist worksteal $(ARGS)

test-browser: $(READY) ## test the report page in headless Chromium (apt-get install chromium chromium-driver)
	$(PY) -m pytest tests/browser/page_checks.py $(ARGS)

lint: $(READY) ## check style, formatting and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

sweep: $(READY) ## compare eight schemes, one run each
	$(PY) -m vggtq.run +experiment=eight_schemes $(ARGS)

report: $(READY) ## merge all records below outputs/ into tables and charts
	$(PY) -m vggtq.report $(ARGS)

accuracy: $(READY) ## run every row of docs/accuracy.md that is not there yet, and write its tables
	$(PY) -m vggtq.accuracy $(ARGS)

bench: $(READY) ## time kernels, blocks and whole models against FP32 and BF16
	$(PY) -m vggtq.bench $(ARGS)

docs: $(READY) ## build the guide as a site, outputs/site/index.html; broken links fail
	$(PY) -m zensical build --strict --clean

clean: ## remove the environment, caches and outputs
	rm -rf .venv outputs dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
