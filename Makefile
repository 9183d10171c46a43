# make book    set up .venv and build the book          make test   set up .venv and run every test
# make check   lint, types, spelling                    make bench  time refimpl beside other libraries
# Nothing is done twice: .venv is made anew only when pyproject.toml or constraints.txt have changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := $(shell find book refimpl -type f -not -name '*.pyc' 2>/dev/null) _config.yml _toc.yml
# The committed outputs come from x86-64 Linux. There a fresh run is compared with them (tolerances: book/conftest.py);
# elsewhere training takes other roundings, so notebooks are run with all their assertions but not compared.
COMPARE ?= $(if $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m)),--nbval,--nbval-lax)
export HF_HUB_OFFLINE = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: book test check bench unit notebooks mutation clean
.NOTPARALLEL:
book: _build/html/.built
	@echo
	@echo "The book is built. Open it: file://$(abspath _build/html)/index.html"

test: book unit notebooks

# also after a build with warnings (make -k): the pages are there then
unit: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n 2 --dist loadfile -q --durations 10

# two at a time, each on a core of its own: what they time is compared within a notebook, in turns; in the order of the
# folders, which begins with the longest (else with those of most cells, and one core waits at the end)
notebooks: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(COMPARE) --nbval-current-env --nbval-cell-timeout 1800 \
		--nbval-sanitize-with book/nbval.cfg -q --durations 10 -n 2 --dist loadfile --no-loadscope-reorder book

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell README.md CONTRIBUTING.md book refimpl tests
	$(BIN)/python -m tests.spelling

# The libraries that refimpl is timed against get an environment of their own on top of .venv: transformers imports
# some of them where it finds them, and notebooks would print what they print. hnswlib is built here; pip may keep what
# it built, so it must run on any processor.
BENCH := $(VENV)/bench
bench: $(STAMP)
	$(BIN)/python -m venv --without-pip $(BENCH)
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > \
		"$$($(BENCH)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/base.pth"
	HNSWLIB_NO_NATIVE=1 $(BENCH)/bin/python -m pip install -q -c constraints.txt -e '.[bench]'
	OMP_NUM_THREADS=2 $(BENCH)/bin/python -m tests.bench

mutation: $(STAMP)
	$(BIN)/python -m tests.mutation

_build/html/.built: $(STAMP) $(SOURCES)
	$(BIN)/jupyter-book build . -W -n --keep-going --all
	@touch $@

# torch first and by its exact version: a range may fetch several GB of CUDA libraries
$(STAMP): pyproject.toml constraints.txt book/book_kit/make_venv.py
	@echo "Setting up $(VENV): some minutes the first time."
	$(PYTHON) book/book_kit/make_venv.py $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[book,test]'
	@touch $@

clean:
	rm -rf $(VENV) _build
