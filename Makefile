# `make help` lists the targets. Written for any POSIX shell and GNU make 3.81 (macOS) or later.

SHELL = /bin/sh
BIN = .venv/bin
EXTRAS = train,test
DEV_EXTRAS = $(EXTRAS),dev
STAMP = .venv/.installed
DEV_STAMP = .venv/.installed-dev
DEPENDENCIES = setup.cfg setup.py pyproject.toml constraints.txt
DELEGATE_SOURCES = $(wildcard delegate/src/*)
UV = uv
TRAINING_TESTS = tests/benchmarks tests/training tests/test_readme.py tests/test_tutorials.py \
  tests/larq_ensemble/models/test_families.py \
  $(patsubst %,tests/larq_ensemble/ensembles/test_%.py,call_arguments fused_activations mirror odd_use \
    precisions recomputation sequential traced)
# Each of the two processes takes a half, and then from the other's rest: so nearly all fixtures are
# made once.
pytest = $(BIN)/python -m pytest -n 2 --dist worksteal
MCU_PACKAGES = gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm

# Exits 0 in Python 3.10 to 3.12 only: larq-compute-engine, which converts, has wheels for no other.
SUPPORTED = import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))

.PHONY: help demo test test-training test-arm test-web test-android test-mcu lint docs serve notebooks wheels constraints clean
.DEFAULT_GOAL = help

help:
	@echo 'make demo          the whole idea on real data, in a few minutes: writes runs/demo'
	@echo 'make test          the tests, two at a time; ARGS="-k storage -n 0" goes on to pytest'
	@echo 'make test-training those that train: training, its steps, benchmarks, README, tutorials'
	@echo 'make test-arm      the runtime on emulated ARM cores (Linux, QEMU): builds .arm'
	@echo 'make test-web      the page of `larq-ensemble web` in a headless Chromium, which root gets by apt'
	@echo 'make test-android  the Kotlin of examples/android on the JVM, with a compiler that root gets by apt'
	@echo 'make test-mcu      exported C on emulated Cortex-M chips, with a compiler and QEMU that root gets by apt'
	@echo 'make lint          ruff, mypy, the import contracts, vulture'
	@echo 'make docs          the documentation as a site, strict: writes site/'
	@echo 'make serve         the same on http://127.0.0.1:8000, anew after each change'
	@echo 'make notebooks     docs/tutorials/*.ipynb from the pages beside them'
	@echo 'make wheels        wheels for Linux on x86_64 and aarch64, with the delegate: writes dist/'
	@echo 'make constraints   pins the versions of setup.cfg anew (needs uv; ARGS=--upgrade: the newest)'
	@echo 'make clean         removes .venv, .arm and caches, never runs/'
	@echo
	@echo 'The first run builds .venv with a Python 3.10 to 3.12; PYTHON=/path/to/python names one.'

demo: $(STAMP)
	@$(BIN)/larq-ensemble demo --out runs/demo $(ARGS)

# But for what test-training runs, which takes minutes, and test-arm, test-web, test-android and
# test-mcu, which take tools of their own.
test: $(STAMP)
	@$(pytest) $(TRAINING_TESTS:%=--ignore=%) --ignore=tests/arm --ignore=tests/convert/web/test_browser.py \
	  --ignore=tests/examples/android --ignore=tests/mcu $(ARGS)

test-training: $(STAMP)
	@$(pytest) $(TRAINING_TESTS) $(ARGS)

test-arm: $(DEV_STAMP)
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  missing=$$($(BIN)/python tools/arm/test.py --missing); \
	  [ -z "$$missing" ] || { apt-get -qq update && apt-get -qq -y install $$missing >/dev/null; }; \
	fi
	@$(BIN)/python tools/arm/userland.py
	@rm -rf build dist/*_aarch64.whl
	@$(call wheel,aarch64)
	@$(BIN)/python tools/arm/test.py dist/*_aarch64.whl

test-web: $(STAMP)
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! command -v chromedriver >/dev/null; then \
	  apt-get -qq update && apt-get -qq -y --no-install-recommends install chromium chromium-driver >/dev/null; \
	fi
	@command -v chromedriver >/dev/null || { echo "The page's tests need a chromedriver, and Chromium or Chrome (Debian and Ubuntu: apt install chromium chromium-driver)." >&2; exit 1; }
	@$(BIN)/python -m pytest tests/convert/web/test_browser.py $(ARGS)

test-android: $(STAMP)
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! command -v kotlinc >/dev/null; then \
	  apt-get -qq update && apt-get -qq -y --no-install-recommends install kotlin libandroid-json-org-java >/dev/null; \
	fi
	@command -v kotlinc >/dev/null || { echo "The tests of the Kotlin need kotlinc (Debian and Ubuntu: apt install kotlin libandroid-json-org-java)." >&2; exit 1; }
	@$(BIN)/python -m pytest tests/examples/android $(ARGS)

# Powerpc is there for the order of its bytes: where its tools are missing, those tests are skipped.
test-mcu: $(STAMP)
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! { $(has_boards); }; then \
	  apt-get -qq update && apt-get -qq -y --no-install-recommends install gcc $(MCU_PACKAGES) \
	    gcc-powerpc-linux-gnu libc6-dev-powerpc-cross qemu-user >/dev/null; \
	fi
	@{ $(has_boards); } || { echo "Emulated microcontrollers need a cross compiler, newlib and QEMU (Debian and Ubuntu: apt install $(MCU_PACKAGES))." >&2; exit 1; }
	@$(BIN)/python -m pytest tests/mcu $(ARGS)

lint: $(DEV_STAMP)
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/vulture

docs: $(DEV_STAMP)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

serve: $(DEV_STAMP)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --strict

notebooks: $(STAMP)
	@$(BIN)/jupytext --quiet --update --to ipynb docs/tutorials/*.md

wheels: $(DEV_STAMP)
	@rm -rf build dist
	@$(call wheel,x86_64)
	@$(call wheel,aarch64)
	@ls dist/*.whl

constraints:
	@$(UV) pip compile --quiet --universal --python-version 3.10 --all-extras \
	  --annotation-style line --custom-compile-command 'make constraints' $(ARGS) \
	  setup.cfg --output-file constraints.txt
	@sed -e 's/ \{2,\}#/  #/' constraints.txt > constraints.txt.new
	@mv constraints.txt.new constraints.txt

clean:
	rm -rf .venv .arm build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find larq_ensemble training convert tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

# A compiler that has no newlib answers with the name of the file that it doesn't find.
define has_boards
command -v arm-none-eabi-gcc >/dev/null && command -v qemu-system-arm >/dev/null && \
  [ "$$(arm-none-eabi-gcc -print-file-name=rdimon.specs)" != rdimon.specs ]
endef

# Installs the extras $(1) and leaves the stamp $@. pip takes a package that it was interrupted in
# for installed, so after an interruption, which leaves .venv/.installing, it may trust none.
define install
again=; if [ -e .venv/.installing ]; then again=--ignore-installed; fi; \
touch .venv/.installing; \
if $(BIN)/python -m pip install --quiet --disable-pip-version-check $$again \
  --constraint constraints.txt --editable '.[$(1)]'; \
then mv .venv/.installing $@; \
else echo "The installation failed, see above: once that is mended, run make again. larq-compute-engine has wheels for x86_64 Linux and for macOS only." >&2; exit 1; \
fi
endef

# Builds the wheel for the machine $(1). _PYTHON_HOST_PLATFORM is what Python takes it from; auditwheel
# tags the wheel with the oldest glibc that it runs on.
define wheel
command -v $(1)-linux-gnu-gcc >/dev/null || { echo "The wheel for $(1) needs $(1)-linux-gnu-gcc (Debian and Ubuntu: apt install gcc-$(subst _,-,$(1))-linux-gnu)." >&2; exit 1; }; \
CC=$(1)-linux-gnu-gcc _PYTHON_HOST_PLATFORM=linux-$(1) $(BIN)/python -m pip wheel --quiet \
  --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir build/wheels . && \
{ PATH=$(BIN):$$PATH $(BIN)/auditwheel repair --wheel-dir dist build/wheels/*-linux_$(1).whl \
  >build/auditwheel.log 2>&1 || { cat build/auditwheel.log >&2; exit 1; }; }
endef

# A .venv that works is kept: a change of setup.cfg then costs seconds. A version manager's
# `python3.12` may exist and fail, so every candidate is run.
$(STAMP): $(DEPENDENCIES) $(DELEGATE_SOURCES)
	@rm -f $(STAMP) $(DEV_STAMP); \
	if ! $(BIN)/python -c '$(SUPPORTED)' 2>/dev/null || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  set -- python3 python3.12 python3.11 python3.10 python; \
	  if [ -n "$(PYTHON)" ]; then set -- "$(PYTHON)"; fi; \
	  found= without_venv=; \
	  for candidate in "$$@"; do \
	    "$$candidate" -c '$(SUPPORTED)' >/dev/null 2>&1 || continue; \
	    if "$$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then found=$$candidate; break; fi; \
	    without_venv=$${without_venv:-$$candidate}; \
	  done; \
	  if [ -z "$$found$$without_venv" ]; then \
	    echo "No Python 3.10 to 3.12 among: $$*. Install one (python.org, pyenv or your system's packages), or name it with make PYTHON=/path/to/python." >&2; \
	    exit 1; \
	  elif [ -z "$$found" ]; then \
	    echo "$$without_venv cannot make virtual environments: install its venv module (Debian and Ubuntu: apt install python3-venv), or name another Python 3.10 to 3.12 with make PYTHON=/path/to/python." >&2; \
	    exit 1; \
	  fi; \
	  echo "Making .venv with $$found ($$("$$found" --version 2>&1))"; \
	  "$$found" -m venv --clear .venv || { echo "$$found could not make .venv: see above, or name another Python with make PYTHON=/path/to/python." >&2; exit 1; }; \
	fi
	@echo "Installing larq-ensemble and what it needs into .venv: a minute or more the first time"
	@$(call install,$(EXTRAS))

$(DEV_STAMP): $(STAMP)
	@$(call install,$(DEV_EXTRAS))
