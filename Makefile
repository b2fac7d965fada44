# `make train` and `make test` do everything on a fresh machine: they create .venv if it is missing and install into it.
# What DeepMind Control needs to draw without a screen, a C++ compiler (of PyTorch's compiler, which runs do without), and the
# browser that reports are tested in, are system packages: where they are missing, they are installed too.
PYTHON ?= python3
BIN = .venv/bin
PYTEST = $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -rs
SUDO = $(shell test $$(id -u) = 0 || echo sudo)

.PHONY: train test test-all lint docs clean

train: .venv/installed
	$(BIN)/seer train --preset quick --env.num-envs 8 --eval.every 5000

test: lint .venv/renderer .venv/compiler
	$(PYTEST) -m "not slow"

test-all: test .venv/browser .venv/lerobot
	$(PYTEST) -m slow

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: .venv/installed
	$(BIN)/sphinx-build -W --keep-going -n -b html docs docs/_build

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

.venv/renderer: .venv/installed
	@$(BIN)/python -c "import dm_control" \
	|| { echo "the tests need the extra dmc, which Python 3.13 does not have: rm -r .venv, then make PYTHON=python3.12 test"; false; }
	$(BIN)/python -c "from seer_rl.envs.dmc import renderer; renderer()" 2> /dev/null \
	|| { $(SUDO) apt-get update --quiet && $(SUDO) apt-get install --quiet --yes --no-install-recommends libosmesa6; }
	touch $@

.venv/compiler: .venv/installed
	command -v c++ > /dev/null \
	|| { $(SUDO) apt-get update --quiet && $(SUDO) apt-get install --quiet --yes --no-install-recommends g++; }
	touch $@

.venv/browser: .venv/installed
	command -v chromium > /dev/null \
	|| { $(SUDO) apt-get update --quiet && $(SUDO) apt-get install --quiet --yes --no-install-recommends chromium; }
	touch $@

# LeRobot's pins exclude the PyTorch of constraints.txt: it is installed without them, and then what its learner imports.
.venv/lerobot: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps \
	lerobot==0.4.4 torchvision==0.28.0 'accelerate<2' 'diffusers<0.36' pyserial
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	'transformers<5' 'huggingface-hub<0.36' draccus==0.10.0 'einops<0.9' 'datasets<5' 'av<16' grpcio termcolor jsonlines
	touch $@

clean:
	rm -rf .venv
