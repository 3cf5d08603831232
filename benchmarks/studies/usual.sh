#!/bin/sh
# The usual L-Softmax of version 0.1 against softmax on long-tailed CIFAR-10 (exp 0.1): the original project's recipe with ResNet-18, 10 epochs, 3 seeds, batch 128.
#   THREADS=1 PRECISION=bf16 sh benchmarks/studies/usual.sh
# It does what is missing below runs/; start it several times to share the work. ARMS: losses, as --loss takes them.
set -e
set --
for loss in ${ARMS:-softmax lsoftmax:margin=auto}; do set -- "$@" --arm "loss=$loss"; done
lmsm sweep --preset imbalanced-resnet18 --neck bn --batch-size 128 --seeds "${SEEDS:-3}" --precision "${PRECISION:-auto}" --threads "${THREADS:-0}" \
    --quiet --out runs/cifar10-usual "$@"
