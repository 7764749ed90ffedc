# Every target is one call of dev.py, which works as well without make: python3 dev.py up
PYTHON ?= python3
ARGS ?=

up test test-unit test-e2e coverage check dev fmt reference lock bench deploy-check docs sbom:
	@$(PYTHON) dev.py $@ $(ARGS)

.DEFAULT_GOAL := help
help:
	@$(PYTHON) dev.py help

.PHONY: up test test-unit test-e2e coverage check dev fmt reference lock bench deploy-check docs sbom help
