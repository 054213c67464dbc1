PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo test test-slow gpu-check check clean

demo: $(INSTALLED)  ## Train two workers on generated street scenes
	$(BIN)/python experiments/streets.py
	@echo
	@echo "What to try next:"
	@echo "  $(BIN)/tensorboard --logdir runs                                        # the curves"
	@echo "  $(BIN)/python experiments/streets.py --run.name streets-ce --contrast.weight 0"
	@echo "  $(BIN)/python experiments/streets.py --run.name streets-cooler --contrast.temperature 0.07"
	@echo "  $(BIN)/python experiments/streets.py search --trials 8 --run.workers 1  # a search"
	@echo "  $(BIN)/pixelcontrast dashboard runs/streets-search                      # its trials, live"
	@echo "  $(BIN)/pixelcontrast report runs/streets                                # one HTML file"
	@echo "  $(BIN)/python experiments/streets.py --help                             # every setting"

# A file's tests share what they make, so each file stays in one process; those of whole runs come first.
test: $(INSTALLED)  ## All tests but the slow ones, in two processes
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(INSTALLED)  ## The tests that take minutes each
	$(BIN)/python -m pytest -m slow

gpu-check: $(INSTALLED)  ## On a machine with a GPU: the tests that need one, and what it costs there (gpu.json)
	@status=0; set -x; \
	$(BIN)/python -m pytest -m cuda || status=$$?; \
	$(BIN)/python experiments/benchmarks/gpu.py --out gpu.json || status=$$?; \
	exit $$status

check: $(INSTALLED)  ## Lint, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

clean:  ## Remove the installation and the caches; runs stay
	rm -rf .venv .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	touch $@
