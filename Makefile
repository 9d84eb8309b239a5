# Each target sets up what it needs: on a fresh Debian machine, in a fresh clone, `make demo` and `make test` do it all.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# What the compiled libraries and FFCV compile against, and what makes a virtual environment.
SYSTEM_PACKAGES := g++ libjpeg-dev libopencv-dev libturbojpeg0-dev pkg-config python3-dev python3-venv
PIP := $(BIN)/python -m pip install --quiet --constraint .ci/constraints.txt

.PHONY: setup system demo test lint clean

setup: $(READY)

demo: $(READY)
	$(BIN)/twistnet demo

test: $(READY)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest --numprocesses=2 --dist=loadfile

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build *.egg-info

$(READY): setup.cfg setup.py pyproject.toml .ci/constraints.txt $(wildcard loaders/native/*.cpp loaders/native/*.h twistnet/interactions/*.cpp) | system
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 10) <= v < (3, 14) else \
	    f"Python {v[0]}.{v[1]} is not supported: call make PYTHON=python3.12, or any of 3.10 to 3.13.")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): about 7 GB, mostly PyTorch's CUDA libraries."
	$(PIP) --editable '.[demo,plots,test]'
	if ! pkg-config --exists opencv4 libturbojpeg; then \
	    echo "Without OpenCV's and TurboJPEG's headers FFCV is left out; all else works."; \
	elif ! $(PIP) --editable '.[ffcv]'; then echo "FFCV did not build and is left out; all else works."; fi
	touch $@

# As root or with sudo; without either it says what to install, and goes on.
system:
	@if dpkg --status $(SYSTEM_PACKAGES) >/dev/null 2>&1; then exit 0; fi; \
	if ! command -v apt-get >/dev/null; then as=missing; \
	elif [ "$$(id -u)" = 0 ]; then as=; \
	elif sudo --non-interactive true 2>/dev/null; then as=sudo; else as=missing; fi; \
	if [ "$$as" = missing ]; then echo "For FFCV, install: $(SYSTEM_PACKAGES)"; exit 0; fi; \
	$$as apt-get update --quiet=2 && \
	$$as env DEBIAN_FRONTEND=noninteractive \
	    apt-get install --quiet=2 --yes --no-install-recommends $(SYSTEM_PACKAGES) >/dev/null || \
	echo "Those packages could not be installed; for FFCV, install: $(SYSTEM_PACKAGES)"
