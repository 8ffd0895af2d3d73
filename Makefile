# Each recipe is a line or two that can be typed by hand.
PYTHON ?= python3
VENV ?= .venv
SIGN_VENV ?= .venv-sign
WEB ?= .web
KOTLIN ?= .kotlin
SWIFT ?= .swift
BIN := $(VENV)/bin
RUN ?= runs/demo

.PHONY: help demo test test-sign test-web test-android test-ios test-arm64 fuzz install format lint types build docs clean

help:
	@echo "make demo     virtual environment, install, distil, export, bench: the first ten minutes"
	@echo "make test     the whole test suite, in random order; SEED=N repeats an order"
	@echo "make test-sign  the tests of signatures, in an environment of their own"
	@echo "make test-web  the tests of bundles and of runtimes for the web; needs npm and chromium. With .web, make test has them too"
	@echo "make test-android  the tests of bundles for Android; needs npm and Java 17"
	@echo "make test-ios  the tests of bundles for iOS; needs root, and gets Swift from Debian"
	@echo "make test-arm64  the runtimes on emulated ARM64; needs Debian, and keeps 230 MB in the user's cache"
	@echo "make fuzz     long runs of the fuzz tests; SECONDS=1200 SEED=0 TESTS=tests/fuzz"
	@echo "make install  format  lint  types  docs  build  clean"

$(BIN)/msd: pyproject.toml requirements/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than 3.11; name another with make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "error: $(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint requirements/constraints.txt --editable ".[demo,pretrained,executorch,litert,coreai,extensions,optimum,dev]"
	@touch $(BIN)/msd

install: $(BIN)/msd

demo: install
	$(BIN)/msd distill --out $(RUN) --overwrite $(OPTIONS)
	$(BIN)/msd export $(RUN) --overwrite
	$(BIN)/msd bench $(RUN) $(BENCH_OPTIONS)

test: install
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile $(if $(SEED),--randomly-seed=$(SEED))

# Signing needs other versions than LiteRT's packages: they come first in this environment.
test-sign: install
	$(PYTHON) -m venv $(SIGN_VENV)
	$(SIGN_VENV)/bin/python -m pip install --quiet --constraint requirements/constraints.txt model-signing pyopenssl
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$$($(SIGN_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/msd.pth"
	$(SIGN_VENV)/bin/python -m pytest tests/export/provenance/test_signing.py

$(WEB)/node_modules: requirements/web/package.json
	@command -v npm >/dev/null || { echo "error: npm is missing; on Debian: apt-get install npm" >&2; exit 1; }
	mkdir -p $(WEB) && cp $< $(WEB)/ && cd $(WEB) && npm install --no-audit --no-fund --silent
	@touch $@

test-web: install $(WEB)/node_modules
	$(BIN)/python -m pytest tests/export/bundle/test_web.py tests/export/bundle/test_web_demo.py tests/mobile_bench/runtimes/test_web.py

# 86 MB; it needs Java 17 to run.
$(KOTLIN)/package:
	@command -v npm >/dev/null || { echo "error: npm is missing; on Debian: apt-get install npm" >&2; exit 1; }
	mkdir -p $(KOTLIN) && cd $(KOTLIN) && npm pack --silent kotlin-compiler@2.4.20 && tar xzf *.tgz && rm *.tgz

test-android: install $(KOTLIN)/package
	$(BIN)/python -m pytest tests/export/bundle/test_android.py

# A Debian of its own with Swift, 2.6 GB; it needs root.
$(SWIFT)/root:
	mkdir -p $(SWIFT)
	ROOT=$(CURDIR)/$@.part bash tests/export/bundle/ios/setup.sh && mv $@.part $@

test-ios: install $(SWIFT)/root
	$(BIN)/python -m pytest tests/export/bundle/test_ios.py

# ONNX Runtime, LiteRT and ExecuTorch for ARM64, and QEMU, without root.
test-arm64: install
	$(BIN)/msd doctor --install arm64
	$(BIN)/python -m pytest -m arm64

fuzz: install
	$(BIN)/python -m pytest $(or $(TESTS),tests/fuzz) --fuzz-seconds=$(or $(SECONDS),1200) --hypothesis-seed=$(or $(SEED),0)

format: install
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

lint: install
	$(BIN)/ruff format --check . && $(BIN)/ruff check .

types: install
	$(BIN)/mypy

docs: install
	$(BIN)/python docs/generate_cli.py

build: install
	$(BIN)/python -m build --no-isolation

clean:
	rm -rf $(VENV) $(SIGN_VENV) $(WEB) $(KOTLIN) $(SWIFT) build dist .mypy_cache .pytest_cache .ruff_cache
