# make clip PROMPT="..."   a video of what you asked for: clip.mp4 and the contact sheet clip.png
# make test                lint, types and tests        make test-slow   the slow tests
# make test-triton         the Triton kernels, without a GPU in Triton's interpreter; installs triton (290 MB to load, 1 GB on disk)
#
# PYTHON=python3.12        another interpreter (3.10 or newer)
# TORCH='torch==2.13.0 --index-url ...'   other pip arguments for torch; PyTorch's install selector has the address
#                          of the build for your CUDA version, or for CPU

PYTHON ?= python3
TORCH ?= torch==2.13.0
SEED ?= 0
PROMPT ?= a penguin moves left in the snow, [Static shot]

# The text of PROMPT goes to the recipe through the environment, unread by make and by the shell's parser.
override PROMPT := $(value PROMPT)
export PROMPT

VENV := .venv
PIP := $(VENV)/bin/python -m pip install -qq --disable-pip-version-check
# One stamp per choice of torch: another choice is installed when it is asked for, and kept when nothing is said.
TORCH_STAMP := $(VENV)/torch-$(shell printf '%s' "$(TORCH)" | cksum | cut -d ' ' -f 1).stamp
ifeq ($(origin TORCH),file)
TORCH_STAMP := $(firstword $(wildcard $(VENV)/torch-*.stamp) $(TORCH_STAMP))
endif
INSTALL_STAMP := $(VENV)/install.stamp
DEV_STAMP := $(VENV)/dev.stamp
SLOW_STAMP := $(VENV)/slow.stamp

.PHONY: clip env lint types test test-slow test-triton clean

clip: $(INSTALL_STAMP)
	@$(VENV)/bin/videogen generate --seed $(SEED) --sheet clip.png -o clip.mp4 -- "$$PROMPT"

env: $(DEV_STAMP)

test: lint types
	$(VENV)/bin/python -m pytest -m "not slow and not gpu"

test-slow: $(SLOW_STAMP)
	$(VENV)/bin/python -m pytest -m "slow and not gpu"

# Left out of `make test`: on a machine without a GPU nothing but these tests uses triton.
test-triton: $(DEV_STAMP)
	@$(PIP) 'triton>=3.4,<4'
	$(VENV)/bin/python -m pytest tests/test_kernels_triton_*.py

lint: $(DEV_STAMP)
	$(VENV)/bin/ruff check .

types: $(DEV_STAMP)
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) build *.egg-info

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed, $(PYTHON) is older or missing: make PYTHON=python3.12 ..." >&2; exit 2; }
	@echo "Creating $(VENV) ..."
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 2; }

# A machine without an NVIDIA GPU must not get gigabytes of CUDA packages by accident: look before installing,
# unless TORCH was chosen by hand.
$(TORCH_STAMP): | $(VENV)/bin/python
ifeq ($(origin TORCH),file)
	@command -v nvidia-smi >/dev/null || ! $(PIP) --dry-run --ignore-installed --report - $(TORCH) | grep -q '"name": "nvidia-' || \
		{ echo "Your package index has torch with CUDA only (gigabytes), and there is no NVIDIA GPU here. Choose the CPU build in" \
		"PyTorch's install selector and pass it on: make TORCH='$(TORCH) --index-url ...'; to take CUDA all the same: make TORCH='$(TORCH)'." >&2; exit 2; }
endif
	@echo "Installing torch ($(TORCH)) ..."
	@$(PIP) $(TORCH)
	@rm -f $(VENV)/torch-*.stamp
	@touch $@

$(INSTALL_STAMP): $(TORCH_STAMP) pyproject.toml
	@echo "Installing videogen ..."
	@$(PIP) -e .
	@touch $@

$(DEV_STAMP): $(INSTALL_STAMP)
	@echo "Installing what the tests need ..."
	@$(PIP) -e '.[dev]'
	@touch $@

# Neither has a build for every Python and platform; where one is missing, its tests are skipped and say so.
$(SLOW_STAMP): $(DEV_STAMP)
	@echo "Installing what the slow tests need ..."
	@for extra in postgresql ray; do $(PIP) -e ".[$$extra]" || echo "Without $$extra: its tests are skipped."; done
	@touch $@
