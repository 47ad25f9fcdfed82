# SPDX-License-Identifier: Apache-2.0
# `make` lists the targets. Everything that one needs is installed by it: Debian's
# packages as root from where apt is configured to take them, Python's into .venv.

PYTHON ?= /usr/bin/python3
BIN := .venv/bin

# What the lab is made with, and run by.
PACKAGES := bc binutils bison busybox-static cpio dwarves e2fsprogs flex gcc graphviz kmod libc6-dev \
	libelf-dev libssl-dev make mmdebstrap openssh-client patch perl python3-venv tmux xz-utils zstd
# What the Debian package is made with.
PACKAGES += debhelper dh-python lintian pybuild-plugin-pyproject python3-dev python3-hatchling python3-shtab

# A program that a test starts does not compile all modules again: a fifth of the time of all unit tests.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run unit test soak lab matrix limits bench effect experiment pictures screens dashboards deb release check format clean

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 18

run: .venv/ready ## boot the lab, watch shadow-paged guests in it, and publish the metrics here
	@exec $(BIN)/python -m tests.lab run $(ARGS)

# In memory: thousands of small files, and what syncs them, would wait for the disk.
unit: .venv/ready check ## lint, types, and all tests that need no kernel and measure no time: half a minute
	@exec env TMPDIR=$(firstword $(wildcard /dev/shm) /tmp) $(BIN)/pytest -q -n 3 --dist worksteal -m "not soak" tests/unit $(ARGS)

test: unit ## all of unit, and what a change must not break on a real kernel, in two labs side by side: some minutes
	@exec $(BIN)/pytest -n 2 --dist loadfile -m "not soak" --durations 10 tests/kernel $(ARGS)

soak: .venv/ready ## everything else, one test after another, for hours; goes on where it was stopped
	@exec $(BIN)/pytest -p tests.soak --hypothesis-profile soak --verbose $(ARGS)

lab: .venv/ready ## a root shell in the lab; ARGS="--kvm stock --workload zipf --pages 64 --policy parents"
	@exec $(BIN)/python -m tests.lab shell $(ARGS)

matrix: .venv/ready ## every kernel in every mode against the kernel itself; goes on where it was stopped; ARGS="6.1 7.x" for some
	@exec $(BIN)/python -m tests.lab.matrix $(ARGS)

limits: .venv/ready ## what guests are said to lose, and higher limits to spare, and what they do, into docs/limits.md; goes on where it was stopped
	@exec $(BIN)/python -m tests.lab.limits $(ARGS)

bench: .venv/ready ## measure the decoder, the model and the metrics; figures also as lines of JSON
	@exec $(BIN)/python -m tests.bench $(ARGS)

effect: .venv/ready ## compare stock order with parents moved up, in the lab, the same workloads in both
	@exec $(BIN)/python -m tests.lab.effect

experiment: .venv/ready ## the RFC's ideas measured in the lab, for hours, into docs/experiment.md; goes on where it was stopped; ARGS="zipf linux"
	@exec $(BIN)/python -m tests.experiment $(ARGS)

screens: .venv/ready ## take the screens of README, in the lab
	@exec $(BIN)/python -m tests.lab.screens

pictures: .venv/ready ## draw docs/before-after.svg and docs/tree.txt, from the captures of the tests
	@$(BIN)/python -m tests.pictures

dashboards: .venv/ready ## write dashboards/*.json, from the declarations beside them
	@$(BIN)/python -m dashboards

deb: .venv/ready ## build the Debian package, and have lintian look at it, into dist/
	@rm -rf dist && mkdir -p dist/shadowwatch
	@cp -a CHANGELOG.md CONTRIBUTING.md LICENSE README.md bpf dashboards debian docs examples prometheus pyproject.toml \
		shadowwatch systemd dist/shadowwatch
	@$(BIN)/python -m tests.compiled dist/shadowwatch/compiled >dist/build.log 2>&1 || { tail -n 20 dist/build.log; exit 1; }
	@cd dist/shadowwatch && PATH=/usr/sbin:/usr/bin:/sbin:/bin dpkg-buildpackage --build=binary --no-sign >../build.log 2>&1 || \
		{ tail -n 20 ../build.log; exit 1; }
	@lintian --allow-root --fail-on error,warning dist/*.changes
	@rm -r dist/shadowwatch
	@ls dist/*.deb

release: .venv/ready ## write VERSION=x.y.z wherever it stands, run unit, commit and tag
	@$(BIN)/python release.py "$(VERSION)"

check: .venv/ready ## lint, formatting and types
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy shadowwatch tests dashboards debian release.py

format: .venv/ready ## format the code
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .

clean: ## remove .venv and the lab's cache
	rm -rf .venv "$${XDG_CACHE_HOME:-$$HOME/.cache}/shadowwatch"

.venv/ready: pyproject.toml tests/floors.txt Makefile
	@echo "setup: Debian's packages for the lab, and Python's in .venv"
	@dpkg-query -W $(PACKAGES) >/dev/null 2>&1 || \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(PACKAGES); } \
		>.setup.log 2>&1 || { tail -n 20 .setup.log; echo "setup: apt-get failed; run make as root, with Debian 12's or 13's packages configured"; exit 1; }
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint tests/floors.txt --editable '.[dev]' 2>.setup.log || \
		{ cat .setup.log; exit 1; }
	@rm -f .setup.log
	@touch $@
