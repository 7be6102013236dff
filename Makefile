# Every target sets itself up: .venv is made and filled when it is missing or older than what it is made from. The tools of
# those who change vggtq are 140 packages more and come with the first target that needs them.
PYTHON ?= python3
PY := .venv/bin/python
READY := .venv/.installed
TOOLS := .venv/.tools
# Python compiles what is imported; compiling everything at installation takes a minute.
INSTALL := $(PY) -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help run test test-native test-browser lint sweep report accuracy bench docs clean distclean

help: ## show this help
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

NATIVE := src/vggtq/quant/kernels/native
NATIVE_TESTS := $(addsuffix .py,$(addprefix tests/quant/kernels/test_native_,products floats process choice conv_products conv_modules)) \
  $(addsuffix _attention.py,$(addprefix tests/network/test_,native int8 bfloat16))

$(READY): pyproject.toml constraints.txt $(wildcard $(NATIVE)/*.h $(NATIVE)/*.cpp)
	$(PYTHON) -m venv .venv
	$(INSTALL) -e .
	@touch $@

$(TOOLS): $(READY)
	$(INSTALL) 'vggtq[dev,eth3d]'
	@touch $@

run: $(READY) ## quantize the default model, compare it with FP32, leave a record and a picture
	$(PY) -m vggtq.run $(ARGS)

# One thread for each of the processes: half the time of one process with two threads.
test: $(TOOLS) ## run all tests, four at a time where there are as many cores
	OMP_NUM_THREADS=1 $(PY) -m pytest -n logical --maxprocesses 4 --dist worksteal $(ARGS)

# torch keeps what it has allocated to the end, which is no leak.
test-native: $(TOOLS) ## test the native kernels with sanitizers, and as g++, clang++ and a compiler for ARM build them
	$(PY) -m pytest -rs tests/quant/kernels/compiler_checks.py
	$(PY) -m cmake -S $(NATIVE)/cmake -B build/native_test -DVGGTQ_SANITIZE=address,undefined -DVGGTQ_EVEX=ON
	$(PY) -m cmake --build build/native_test --parallel 2
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 \
	  VGGTQ_LIBRARY=build/native_test/vggtq_native.so OMP_NUM_THREADS=1 $(PY) -m pytest $(NATIVE_TESTS) $(ARGS)

test-browser: $(TOOLS) ## test the report page in headless Chromium (apt-get install chromium chromium-driver)
	$(PY) -m pytest tests/browser/*_checks.py $(ARGS)

lint: $(TOOLS) ## check style, formatting (C++ too), types, the direction of imports and English spelling
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports
	.venv/bin/codespell README.md README.zh-CN.md CHANGELOG.md docs src conf
	.venv/bin/clang-format --dry-run --Werror $(NATIVE)/*.h $(NATIVE)/*.cpp tests/quant/kernels/*.cpp

sweep: $(READY) ## compare eight schemes, one run each
	$(PY) -m vggtq.run +experiment=eight_schemes $(ARGS)

report: $(READY) ## merge all records below outputs/ into tables and charts
	$(PY) -m vggtq.report $(ARGS)

accuracy: $(READY) ## run every row of docs/accuracy.md that is not there yet, and write its tables
	$(PY) -m vggtq.accuracy $(ARGS)

bench: $(READY) ## time kernels, blocks and whole models against FP32 and BF16
	$(PY) -m vggtq.bench $(ARGS)

docs: $(TOOLS) ## write docs/record.md and build the guide as a site, outputs/site/index.html; broken links fail
	$(PY) -m vggtq.records.reference docs/record.md
	$(PY) -m zensical build --strict --clean

clean: ## remove what builds and checks leave behind; outputs/ and the environment stay
	rm -rf dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

distclean: clean ## remove outputs/, with every record and cache, and the environment too
	rm -rf outputs .venv
