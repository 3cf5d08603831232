#!/bin/sh
# The table of the project that this one re-implements: its six runs, ten epochs, 3 seeds, from scratch; with PRETRAINED=imagenet from
# torchvision's weights, as there. It does what is missing below runs/; start it several times to share the work.
#   MODELS=resnet18 THREADS=1 sh benchmarks/studies/seed.sh
set -e
for model in ${MODELS:-resnet18 vgg16}; do
    for preset in balanced imbalanced lsoftmax; do
        lmsm sweep --preset "$preset-$model" ${PRETRAINED:+--pretrained "$PRETRAINED"} --batch-size "${BATCH:-32}" --seeds 3 \
            --precision "${PRECISION:-auto}" --threads "${THREADS:-0}" --quiet --out "runs/seed-$model"
    done
done
