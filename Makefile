# Needs Python 3.10, 3.11 or 3.12 (with venv) and make. `make PYTHON=python3.12 test` chooses another interpreter.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
# Tests run in so many processes; each needs one processor and up to 3 GB.
WORKERS ?= 2
SHARED_OUT := -n $(WORKERS) --no-loadscope-reorder
SUPPORTED := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))

.PHONY: demo check test test-slow lint bench clean

demo: $(INSTALLED)
	$(RUN) -m experiments.demo

# What answers quickly; everything but the slowest; the slowest.
check: $(INSTALLED)
	$(RUN) -m pytest $(SHARED_OUT) -m "not (slow or runs or mindspore or onnx or deep)"

test: $(INSTALLED)
	$(RUN) -m pytest $(SHARED_OUT) -m "not slow"

test-slow: $(INSTALLED)
	$(RUN) -m pytest $(SHARED_OUT) -m slow

lint: $(INSTALLED)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

bench: $(INSTALLED)
	for name in contrastive collaborative prototypes usrn_step usrn_clustering ckr_sbu decoded_cache steps evaluation serve; do \
	  $(RUN) -m benchmarks.$$name || exit 1; done

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): $(wildcard requirements/*.txt)
	@$(PYTHON) -c '$(SUPPORTED)' 2>/dev/null || { \
	  echo "error: $(PYTHON) is not Python 3.10, 3.11 or 3.12; name one, e.g. make PYTHON=python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements/all.txt
	@touch $@
