#!/bin/sh
# Every row that needs a GPU, against its target, the most important ones in the first eight minutes. No network is needed.
#   sh benchmarks/gpu.sh OUT                       measures what OUT/gpu.jsonl has no line of yet, for 480 s; a second call goes on
#   sh benchmarks/gpu.sh OUT loss step --again     these sections, and rows that failed once more
#   sh benchmarks/gpu.sh OUT --seconds 7200        longer: then long-tailed CIFAR-10 over seeds too (CIFAR-10 is a JPEG copy in LMSM_DATA_DIR)
#   sh benchmarks/gpu.sh OUT --try                 tiny, in a pretended CUDA: tries the script, measures nothing
# WHEELS=FOLDER has the packages that lack here (gpu_wheels.py names them, typer first): pydantic, pydantic-core, annotated-types,
#   typing-inspection, platformdirs, typer, filelock, pytorch-metric-learning, liger-kernel, cut-cross-entropy.
# LMSM_DATA_DIR=FOLDER has CIFAR-10, AIRBENCH=FILE is airbench94_muon.py, PYTHON=python the interpreter.
set -e
here=$(cd "$(dirname "$0")" && pwd)
out=${1:?usage: sh benchmarks/gpu.sh OUT [SECTION...] [--again] [--seconds N] [--try]}
mkdir -p "$out"
if [ -n "$WHEELS" ]; then
    "${PYTHON:-python}" -m pip install --quiet --no-index --no-deps --upgrade --target "$out/packages" "$WHEELS"/*.whl
fi
export PYTHONPATH="$(cd "$out" && pwd)/packages:$(dirname "$here")${PYTHONPATH:+:$PYTHONPATH}"
"${PYTHON:-python}" "$here/gpu_wheels.py"
exec "${PYTHON:-python}" "$here/gpu.py" "$@"
