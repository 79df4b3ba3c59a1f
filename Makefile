# Thin names for the commands; the commands themselves are in scripts/.
.PHONY: setup demo test coverage docs lint types format package audit clean

setup:
	./scripts/setup

demo:
	./scripts/demo

test:
	./scripts/test

coverage:
	./scripts/test --cov

docs:
	./scripts/docs build

lint:
	./scripts/setup -m ruff check
	./scripts/setup -m ruff format --check
	./scripts/setup -m codespell_lib
	./scripts/setup scripts/check_configs.py

types:
	./scripts/setup -m mypy

format:
	./scripts/setup -m ruff check --fix
	./scripts/setup -m ruff format

package:
	./scripts/package

audit:
	./scripts/package audit

# Caches and build leftovers; never runs/ and never the environment.
clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find wmtp tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
