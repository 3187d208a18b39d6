# hvp-repro: `make all` measures and draws every figure of the article; `make` lists the rest.

VENV ?= .venv
TARGET ?= a100
PYTHON_VERSION ?= 3.12

# The shell has these from its environment, as they were given: make's text is nowhere part of
# a command, and neither a space nor a quote nor a dollar in a value is more than that.
$(foreach name,VENV PLAN RESULTS TARGET BASE TESTS PROVE PYTHON_VERSION VERSIONS GPUS JOBS CAP SBATCH CONTAINER DRY, \
	$(eval override export $(name) := $$(value $(name))))

ifeq ($(wildcard reproduce/__main__.py),)
$(error make was run with hvp-repro's Makefile in $(CURDIR), which is not its folder; run it as \
	'make -C FOLDER')
endif

PYTHON := "$$VENV/bin/python"

.DEFAULT_GOAL := help
.PHONY: help all quick a100 account beyond report measure figures slurm plan smoke verify test test-all lint image \
	image-test docker-all image-folder sif carry try-newest latest setup setup-container lock sbom audit clean
# What is named together is done in the order of its names, also with -j.
.NOTPARALLEL:

help: ## Print the targets.
	@echo "hvp-repro; variables: PLAN=article|quick|cpu|smoke|beyond  RESULTS=<folder>  VENV=<folder>  TARGET=a100|h100|<file>  GPU=<index or UUID>  GPUS=<number>  PYTHON_VERSION=3.12  VERSIONS=2023|latest"
	@sed -n 's/^## /\n/p; s/^\([-a-z0-9/<>]*\):[^#]*## /\1\t/p' Makefile | expand -t 18

## Measure, draw and judge

all: setup ## Set up if needed, measure what is missing, draw what has changed.
	@$(PYTHON) -m reproduce all --plan "$$PLAN" --results "$$RESULTS" $${GPUS:+--gpus "$$GPUS"} $${VERSIONS:+--versions "$$VERSIONS"}

smoke: setup ## Run every path on tiny models, from measuring to the report.
	@$(PYTHON) -m reproduce all --plan smoke --results "$$RESULTS"

quick: setup ## The article's five benchmark figures on a GPU, in minutes.
	@$(PYTHON) -m reproduce all --plan quick --results "$$RESULTS"

beyond: setup ## Go beyond the article: faster HVPs, and HVPs at work.
	@$(PYTHON) -m reproduce all --plan beyond --results "$${RESULTS:-results}/beyond"

a100: setup ## Find the memory that the article's cases take on an A100; needs no GPU.
	@$(PYTHON) -m reproduce account article "$${RESULTS:-results/a100}"

account: setup ## The same for the GPU that TARGET names.
	@$(PYTHON) -m reproduce account "$${PLAN:-article}" \
		"$${RESULTS:-results/$$(basename "$$TARGET" .txtpb)}" --target "$$TARGET"

slurm: setup ## Measure the plan on a SLURM cluster, in JOBS shares; DRY=1 shows how.
	@$(PYTHON) -m reproduce slurm "$${PLAN:-article}" "$${RESULTS:-results/$${PLAN:-article}}" \
		$${JOBS:+--jobs "$$JOBS"} $${CAP:+--cap "$$CAP"} --sbatch "$$SBATCH" --container "$$CONTAINER" $${DRY:+--dry}

## The steps of these, one by one

# Sets the shell variables plan and results, by default those that fit the machine.
CHOOSE = plan=$${PLAN:-$$($(PYTHON) -m reproduce default-plan)} && results=$${RESULTS:-results/$$plan} &&

plan: setup ## Print what the plan measures, and its expected time and memory.
	@$(CHOOSE) $(PYTHON) -m reproduce plan "$$plan"

measure: setup ## Measure the cases of the plan that are missing.
	@$(CHOOSE) $(PYTHON) -m reproduce measure "$$plan" "$$results"

figures: setup ## Draw all figures from the rows; needs no GPU and no framework.
	@$(CHOOSE) $(PYTHON) -m paper_figures "$$results"

figures/<name>: ## Draw one figure, for example figures/hess_eig.
figures/%: export NAME = $*
figures/%: setup
	@$(CHOOSE) $(PYTHON) -m paper_figures "$$results" "$$NAME"

report: setup ## Judge the claims and write the report; PROVE=1 first runs the errata's tests.
	@$(CHOOSE) { [ -z "$$PROVE" ] || $(PYTHON) -m reproduce prove "$$results"; } && \
		$(PYTHON) -m reproduce report "$$results"

## In a container

# What builds and runs the image needs no framework, and has an environment of its own.
ENGINE := VENV=.venv-container; $(PYTHON) -m reproduce.container

image: setup-container ## Build the container image; BASE=<image> for your own base; VERSIONS=2023.
	@$(ENGINE) build --base "$$BASE" $${VERSIONS:+--versions "$$VERSIONS"}

image-test: setup ## Test the image that was built.
	@$(PYTHON) -m pytest -m engine --capture no --verbose

docker-all: setup-container ## Run `make all` in the image, and build it if needed.
	@$(ENGINE) all --plan "$$PLAN" --results "$${RESULTS:-results}"

image-folder: setup-container ## Unpack the image into the folder hvp-image, for Charliecloud.
	@$(ENGINE) unpack hvp-image

sif: ## Save the image as hvp-repro.tar, and make hvp.sif of it where there is Apptainer.
	docker save --output hvp-repro.tar hvp-repro
	@command -v apptainer >/dev/null || { \
		echo "error: hvp.sif was asked for, and there is no apptainer here; take hvp-repro.tar to where" \
			"there is one, and run 'apptainer build hvp.sif docker-archive://hvp-repro.tar'" >&2; exit 2; }
	apptainer build hvp.sif docker-archive://hvp-repro.tar
	rm hvp-repro.tar

## With other versions of the frameworks

# uv from the PATH or the environment; pip, which alone downloads wheels for another Python, as a
# tool of uv's, or where there is no uv, that of python3.
FIND_UV = PATH="$$PATH:$$(realpath -m "$$VENV")/bin"
FIND_PIP = $(FIND_UV); pip='python3 -m pip'; \
	if uv --version >/dev/null 2>&1; then pip='uv tool run --quiet pip==26.0'; fi

# The wheels in carry/ are for any x86-64 Linux with glibc 2.28 or newer.
PLATFORMS := $(foreach glibc,_2_28 _2_27 _2_26 _2_24 _2_17 2014,--platform manylinux$(glibc)_x86_64)

carry: ## Download the wheels for a machine with its own frameworks into carry/.
	@$(FIND_PIP); rm -rf carry.part; \
	if $$pip download -qq --only-binary=:all: --no-deps --require-hashes --implementation cp \
		--python-version "$$PYTHON_VERSION" $(PLATFORMS) --dest carry.part --requirement requirements-carry.lock; \
	then \
		rm -rf carry && mv carry.part carry && \
		echo "carry/: $$(ls carry | wc -l) wheels for Python $$PYTHON_VERSION, $$(du -sm carry | cut -f1) MB"; \
	else \
		rm -rf carry.part; \
		echo "error: wheels for Python $$PYTHON_VERSION were asked for, and pip could not download" \
			"them, for the reason above; run 'make carry' where a package index is reached, with" \
			"PYTHON_VERSION=3.11, 3.12 or 3.13" >&2; exit 2; \
	fi

try-newest: carry ## Measure plan smoke on the CPU with carry/ and today's PyTorch and JAX.
	@$(FIND_UV); folder="$${RESULTS:-results}/newest"; site="$$folder/site"; \
	python="$$folder/environment/bin/python"; rm -rf "$$folder"; \
	uv venv --quiet --python "$$PYTHON_VERSION" "$$folder/environment" && \
	uv pip install --quiet --python "$$python" torch jax && \
	uv pip install --quiet --python "$$python" --offline --no-deps --target "$$site" carry/*.whl || exit; \
	export CUDA_VISIBLE_DEVICES= JAX_PLATFORMS=cpu PYTHONPATH="$$site"; \
	"$$python" -m reproduce measure smoke "$$folder"; ended=$$?; \
	echo "Plan smoke ended with code $$ended on $$("$$python" --version) and newest:"; \
	"$$python" -c "from importlib.metadata import version; print(*(f'{name} {version(name)}' for name in \
		('torch', 'jax', 'numpy', 'scipy', 'transformers', 'flax')), sep=', ')"; \
	exit $$ended

COMPILE_FOR := uv pip compile --quiet --no-header --generate-hashes \
	--python-platform x86_64-manylinux_2_28 --python-version
COMPILE := $(COMPILE_FOR) 3.11
# pytest comes beside the environment of the newest versions, which stays as its lock has it.
TEST_LATEST = $(FIND_UV); VIRTUAL_ENV=$$($(PYTHON) -c 'import sys; print(sys.prefix)')-latest \
	uv run --quiet --no-project --active --with "$$(grep -o '^pytest==[^ ]*' requirements-test.lock)" \
	python -m pytest
TESTS_OF_MATHEMATICS := tests/test_hvp.py tests/test_products.py tests/test_algorithms.py tests/test_lanczos.py

latest: ## Find the newest versions; measure plan smoke and test the HVPs with them.
	@$(FIND_UV); $(COMPILE_FOR) 3.12 --upgrade --output-file requirements-latest.lock requirements-latest.in
	@$(MAKE) all VERSIONS=latest PLAN=smoke
	@$(TEST_LATEST) -m 'not slow' $(TESTS_OF_MATHEMATICS)

## Check and develop

verify: setup ## Measure plan smoke twice and compare what must be the same.
	@$(PYTHON) -m reproduce verify $${RESULTS:+"$$RESULTS"}

AT_ONCE := --numprocesses auto --dist loadgroup

test: setup ## Run the quick tests; TESTS=<files> for some.
	@$(PYTHON) -m pytest $(AT_ONCE) -m 'not slow and not engine' $$TESTS

test-all: setup ## Run all tests except those of the image; TESTS=<files> for some.
	@$(PYTHON) -m pytest $(AT_ONCE) -m 'not engine' $$TESTS

lint: setup ## Check format, style, docstrings and types.
	@$(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check . && $(PYTHON) -m mypy

sbom: setup ## Write the bill of materials of requirements.lock, as CycloneDX.
	@bill="$${RESULTS:-results}/sbom.cdx.json"; mkdir -p "$$(dirname "$$bill")" && \
	$(PYTHON) -W ignore -m cyclonedx_py requirements --pyproject pyproject.toml --output-reproducible \
		--output-file "$$bill" requirements.lock && echo "$$bill"

# Not in the lock: whoever looks up today's vulnerabilities has a line to get it, and a
# package it could not look up (--strict) must not pass for one without vulnerabilities.
AUDIT := uv tool run --quiet --python $(PYTHON) pip-audit==2.10.1 --strict \
	--progress-spinner off --require-hashes --disable-pip --requirement requirements.lock

audit: setup ## Check requirements.lock for known vulnerabilities, on the internet.
	@found="$${RESULTS:-results}/audit.txt"; \
	mkdir -p "$$(dirname "$$found")" && rm -f "$$found" || exit 2; \
	said=$$("$$VENV/bin/"$(AUDIT) --output "$$found" 2>&1); audited=$$?; \
	if [ $$audited = 0 ]; then \
		echo "No package of requirements.lock has a known vulnerability."; \
	elif [ -s "$$found" ]; then \
		cat "$$found"; exit 1; \
	else \
		echo "error: known vulnerabilities of requirements.lock were asked for, and could not be" \
			"looked up ($$(echo "$$said" | tail -n 1)); run 'make audit' where the internet is" \
			"reached" >&2; exit 2; \
	fi

lock: ## Resolve requirements*.in into new locks, except that of the latest versions.
	@for name in requirements requirements-test requirements-peers requirements-container requirements-2023-jax \
		requirements-2023-torch; do $(COMPILE) --output-file $$name.lock $$name.in || exit; done
	@$(COMPILE) --no-deps --output-file requirements-carry.lock requirements-carry.in

# A copy of the locks that the environment was made from. Where it is missing, the
# environment is somebody else's (a container's, say) and is used as it is.
MADE_FROM := "$$VENV/hvp-repro-made-from"
LOCKS := requirements.lock requirements-peers.lock requirements-test.lock
COST := 8 GB, about a minute on a good line

define MAKE_ENVIRONMENT
is_made() { [ -x $(PYTHON) -a ! -e $(MADE_FROM) ] || cat $(LOCKS) | cmp --quiet - $(MADE_FROM); }; \
if is_made; then exit 0; fi; \
mkdir -p "$$VENV" && exec 9>>$(MADE_FROM) || exit; \
if command -v flock >/dev/null; then \
	flock --nonblock 9 || { echo "Another make is setting up $$VENV; waiting for it."; flock 9; }; \
else \
	echo "Without flock (of util-linux), two makes that set up at once would disturb each other."; \
fi; \
if is_made; then exit 0; fi; \
echo "Making $$VENV from $(LOCKS): $(COST)."; \
if command -v uv >/dev/null && uv --version >/dev/null 2>&1; then \
	uv=uv; [ -x $(PYTHON) ] || uv venv --quiet --allow-existing --python 3.11 "$$VENV" || exit; \
else \
	for python in python3.11 python3 python none; do \
		$$python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && break; \
	done; \
	if [ $$python = none ]; then \
		echo "error: set-up needs Python 3.11 or uv, and finds neither; install one of them," \
			"or give an environment as VENV=<folder>" >&2; exit 2; \
	fi; \
	$$python -m venv "$$VENV" || exit; uv=$$VENV/bin/uv; \
	$(PYTHON) -m pip install --quiet --require-hashes --requirement requirements-test.lock || exit; \
fi; \
VIRTUAL_ENV=$$VENV "$$uv" pip sync --require-hashes --compile-bytecode $(LOCKS) \
	&& cat $(LOCKS) > $(MADE_FROM)
endef

setup: ## Make the environment from the locks, with hashes enforced, unless it exists.
	@$(MAKE_ENVIRONMENT)

setup-container: LOCKS := requirements-container.lock
setup-container: COST := 21 MB in seconds, or without uv 97 MB in less than a minute
setup-container:
	@$(FIND_UV); VENV=.venv-container; $(MAKE_ENVIRONMENT)

clean: ## Remove figures, compiled programs and caches; measured rows stay.
	@rm -rf results/*/figures results/*/tables results/*/programs .pytest_cache .ruff_cache .mypy_cache
	@find . -name __pycache__ -not -path "./$$VENV/*" -prune -exec rm -rf {} +
	@echo "Removed figures, compiled programs and caches; the rows in results/ are still there."
