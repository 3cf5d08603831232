#!/bin/sh
# The table of the project that this one re-implements: its six runs, and softmax with the neck of L-Softmax's run, so that two rows differ in
# the loss alone; ten epochs, 3 seeds, from scratch; with PRETRAINED=imagenet from torchvision's weights, as there.
#   MODELS=resnet18 THREADS=1 PRECISION=bf16 sh benchmarks/studies/seed.sh
# It does what is missing below runs/; start it several times to share the work. ROWS: balanced, imbalanced, neck, lsoftmax.
set -e
for model in ${MODELS:-resnet18 vgg16}; do
    for row in ${ROWS:-imbalanced neck lsoftmax balanced}; do
        case $row in
            neck) choices="imbalanced-$model --neck bn" ;;
            *) choices="$row-$model" ;;
        esac
        # shellcheck disable=SC2086
        lmsm sweep --preset $choices ${PRETRAINED:+--pretrained "$PRETRAINED"} --batch-size "${BATCH:-32}" --seeds 3 \
            --precision "${PRECISION:-auto}" --threads "${THREADS:-0}" --quiet --out "runs/seed-$model"
    done
done
