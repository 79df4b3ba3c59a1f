# Thin names for the commands; the commands themselves are in scripts/.
.PHONY: setup demo test docs lint format bench clean

setup:
	./scripts/setup

demo:
	./scripts/demo

test:
	./scripts/test

docs:
	./scripts/docs build

lint:
	./scripts/setup -m ruff check
	./scripts/setup -m ruff format --check
	./scripts/setup scripts/check_configs.py

format:
	./scripts/setup -m ruff check --fix
	./scripts/setup -m ruff format

bench:
	set -e; for bench in scripts/bench/*.py; do ./scripts/setup $$bench; done

# Caches and build leftovers; never runs/ and never the environment.
clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find wmtp tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
