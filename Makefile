# Everything a fresh clone needs: a Rust toolchain, python3 with venv, make, g++.
#
#   make demo    sets up, compresses the demo model, and runs it
#   make test    sets up, and runs every check
#
# A LIBTORCH in the environment is used as it is; otherwise `make setup` puts a
# CPU-only libtorch into .venv, where .cargo/config.toml looks for it.

TORCH := 2.11.0
CARGO := cargo
DATA ?= $(if $(THIMBLE_DATA),$(THIMBLE_DATA),../shared/data)
THIMBLE := target/release/thimble

# Threads of OpenMP that wait must not spin: tests run side by side.
export OMP_WAIT_POLICY := PASSIVE

# Property tests draw the same cases each time; PROPTEST_RNG_SEED=… draws others.
export PROPTEST_RNG_SEED ?= 1

.PHONY: setup setup-cuda cuda-binary check-gpu demo test test-all check test-device test-torch test-times device-binary bench bench-quality bench-frontier bench-distillation bench-pruning bench-ternary bench-data-types bench-speed bench-memory bench-kernels fixtures wild tokenizations pairs compat compat-tasks clean

ifeq ($(origin LIBTORCH),undefined)
setup: .venv/libtorch
else
setup: ;
endif

# Where there is no +cpu wheel, the full one runs on the CPU with two small
# companions, once the libraries that need the rest of CUDA are gone.
.venv/libtorch:
	python3 -m venv .venv
	.venv/bin/pip install --quiet --no-deps torch==$(TORCH)+cpu 2>/dev/null || \
	  .venv/bin/pip install --quiet --no-deps torch==$(TORCH) nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85
	torch=$$(cd .venv && ls -d lib/python3*/site-packages/torch) && \
	  rm -f .venv/$$torch/lib/libtorch_cuda*.so .venv/$$torch/lib/libtorch_nvshmem.so && \
	  ln -sfn $$torch .venv/libtorch

# The full libtorch for GPUs, some 4.6 GB.
setup-cuda: .venv-cuda/libtorch
.venv-cuda/libtorch:
	python3 -m venv .venv-cuda
	.venv-cuda/bin/pip install --quiet torch==$(TORCH)
	torch=$$(cd .venv-cuda && ls -d lib/python3*/site-packages/torch) && ln -sfn $$torch .venv-cuda/libtorch

# The binary for GPUs. Building it needs no GPU.
cuda-binary: setup-cuda
	LIBTORCH=$(CURDIR)/.venv-cuda/libtorch $(CARGO) build --release --features cuda --target-dir target/cuda

# That binary on the GPU of this machine, against the CPU; builds nothing. PYTHON names an
# interpreter with torch 2.11.0. Without a GPU it is skipped; DEVICE=cpu tries the script.
check-gpu:
	tests/gpu.sh target/cuda/release/thimble $(DATA) || [ $$? -eq 77 ]

demo: setup
	$(CARGO) build --release --features torch
	$(THIMBLE) compress recipes/demo.toml --model assets/demo/model --out demo-output
	@echo
	$(THIMBLE) run demo-output --prompt 'Once upon a time' --max-tokens 80 --seed 1

# Tests run side by side, one a core: one thread of libtorch is enough for each.
test-device test-torch test-times: export OMP_NUM_THREADS ?= 1

test: check test-device test-torch device-binary

# The same, every configuration of tests/data/wild instead of a tenth, and losses over whole texts.
test-all: test
	THIMBLE_WILD=all $(CARGO) test --test wild
	THIMBLE_DATA=$(abspath $(DATA)) $(CARGO) test --features torch --test real_models -- --ignored

check: setup
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
	$(CARGO) clippy --all-targets --features torch -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --no-deps --features torch

test-device:
	THIMBLE_DATA=$(abspath $(DATA)) $(CARGO) test

test-torch: setup
	THIMBLE_DATA=$(abspath $(DATA)) $(CARGO) test --features torch --lib --bins --tests

# The ten slowest tests, by cargo-nextest (cargo install cargo-nextest --locked), which runs each in
# a process of its own; tests/README.md has the last table.
test-times: setup
	THIMBLE_DATA=$(abspath $(DATA)) $(CARGO) nextest run --features torch --lib --bins --tests --no-fail-fast --status-level all 2>&1 | \
	  sed -nE 's/^ *(PASS|FAIL) \[ *([0-9.]+)s\] +(\([^)]*\) +)?(.*)/\2 s  \4/p' | sort -rn | uniq | head -n 10

# The binary that goes to devices: small, and without libtorch.
device-binary: setup
	$(CARGO) build --features torch
	$(CARGO) build --release --no-default-features --target-dir target/device
	tests/device_binary.sh target/device/release/thimble target/debug/thimble

bench: bench-kernels bench-quality bench-data-types bench-memory

bench-kernels:
	$(CARGO) bench --bench kernels

# Parts, and small runs: see benches/quality/main.rs. QUALITY="--seeds 1 --only '3 bits g64'"
bench-quality: setup .venv-peers/ready
	THIMBLE_DATA=$(abspath $(DATA)) $(CARGO) bench --features torch --bench quality -- methods peers $(QUALITY)

bench-frontier: setup .venv-peers/ready
	THIMBLE_DATA=$(abspath $(DATA)) $(CARGO) bench --features torch --bench quality -- frontier $(QUALITY)

# Hours; finished rows are kept. Parts, and small runs: see benches/distillation/main.rs. DISTIL="quality --tokens 20000"
bench-distillation: setup .venv-compat/ready
	THIMBLE_DATA=$(abspath $(DATA)) $(CARGO) bench --features torch --bench distillation -- $(DISTIL)

# Three quarters of an hour; what is made is kept. Parts, and small runs: PRUNING="pruning --only Wanda"
bench-pruning: setup
	THIMBLE_DATA=$(abspath $(DATA)) $(CARGO) bench --features torch --bench pruning -- $(PRUNING)

# Hours; finished rows are kept. Parts, and small runs: see benches/ternary/main.rs. TERNARY="quality --only solved"
bench-ternary: setup
	THIMBLE_DATA=$(abspath $(DATA)) $(CARGO) bench --features torch --bench ternary -- $(TERNARY)

bench-data-types: setup
	THIMBLE_DATA=$(abspath $(DATA)) $(CARGO) bench --features torch --bench data_types

# An hour. Some rows: SPEED="--only 'layers in turn bf16'"
bench-speed: setup .venv-peers/ready
	THIMBLE_DATA=$(abspath $(DATA)) $(CARGO) bench --features torch --bench speed -- $(SPEED)

bench-memory: setup
	$(CARGO) bench --features torch --bench memory

# Rewrites what tests/data has from the libraries that define it. FIXTURES="phi opt" writes only
# the models whose names begin so: on another CPU the last bits of all are others.
fixtures: .venv-compat/ready
	.venv-compat/bin/python python-compat/write_fixtures.py $(FIXTURES)
ifndef FIXTURES
	for script in pickles int8 losses sparse ternary bitnet openings beginnings config_keys; do .venv-compat/bin/python python-compat/write_$$script.py || exit 1; done
	$(MAKE) wild
endif

# Rewrites tests/data/wild by transformers 5 and 4. WILD="llama opt" writes these families alone.
wild: .venv-compat/ready .venv-wild4/ready
	.venv-compat/bin/python python-compat/write_wild.py $(WILD)
	.venv-wild4/bin/python python-compat/write_wild.py $(WILD)

# Rewrites tests/data/tokenizations.json and the vocabularies beside it.
tokenizations: .venv-compat/ready
	.venv-compat/bin/python python-compat/write_tokenizations.py --data $(DATA)

# Rewrites tests/data/pairs.json.
pairs: .venv-lm-eval/ready
	.venv-lm-eval/bin/python python-compat/write_pairs.py $(DATA)

# Our files through other people's readers.
compat: setup .venv-compat/ready
	$(CARGO) build --features torch
	.venv-compat/bin/python python-compat/check_native.py target/debug/thimble tests/data/golden*.thimble
	.venv-compat/bin/python python-compat/check_hugging_face.py target/debug/thimble $(DATA)

# Scores of tasks against lm-evaluation-harness; TASK_ITEMS= takes whole files (half an hour).
TASK_ITEMS ?= 500
compat-tasks: .venv-lm-eval/ready
	$(CARGO) build --release
	.venv-lm-eval/bin/python python-compat/check_tasks.py $(THIMBLE) $(DATA) $(if $(TASK_ITEMS),--limit $(TASK_ITEMS))

.venv-lm-eval/ready: python-compat/requirements-tasks.txt
	python3 -m venv .venv-lm-eval
	.venv-lm-eval/bin/pip install --quiet -r python-compat/requirements-tasks.txt
	touch $@

# gptqmodel is built here, and nothing of CUDA with it.
.venv-peers/ready: python-compat/requirements-peers.txt python-compat/requirements-gptqmodel.txt
	python3 -m venv .venv-peers
	.venv-peers/bin/pip install --quiet --upgrade pip setuptools==81.0.0 wheel
	.venv-peers/bin/pip install --quiet --no-build-isolation -r python-compat/requirements-peers.txt
	BUILD_CUDA_EXT=0 .venv-peers/bin/pip install --quiet --no-deps --no-build-isolation -r python-compat/requirements-gptqmodel.txt
	touch $@

.venv-compat/ready: python-compat/requirements.txt
	python3 -m venv .venv-compat
	.venv-compat/bin/pip install --quiet -r python-compat/requirements.txt
	touch $@

# The last transformers 4, for configurations in its spelling.
.venv-wild4/ready: python-compat/requirements-transformers4.txt
	python3 -m venv .venv-wild4
	.venv-wild4/bin/pip install --quiet -r python-compat/requirements-transformers4.txt
	touch $@

clean:
	rm -rf target demo-output
