#!/bin/sh
# The paper's MNIST, in short: a tenth of the images, so that two CPU cores do it in about an hour and a half.
# `sh benchmarks/studies/mnist.sh` does what is missing below runs/; start it once a core to share the work.
# With a GPU: IMAGES=7000 EPOCHS=20 sh benchmarks/studies/mnist.sh trains on all images.
set -e
images=${IMAGES:-600}
common="--dataset mnist --images-per-class $images --validation 0 --optimizer sgd --momentum 0.9 --weight-decay 0.0005
    --schedule cosine --seeds 3 --precision fp32 --threads ${THREADS:-1} --quiet"

# A long tail on MNIST, exp 0.01: the features of resnet32 as they are, never negative, and through a linear layer and BatchNorm.
tail() {
    # shellcheck disable=SC2086
    lmsm sweep $common --imbalance exp --factor 0.01 --model resnet32 --batch-size 64 --lr 0.1 --warmup 1 ${COMPILE:+--compile} \
        --epochs "${EPOCHS:-20}" "$@" --arm loss=softmax --arm loss=lsoftmax:margin=2,weight_norm=shared \
        --arm loss=lsoftmax:margin=auto,margin_max=4,weight_norm=shared,lambda_min=1
}
tail --neck none --out runs/mnist-lt
tail --neck bn --out runs/mnist-lt-bn --arm loss=lsoftmax:margin=2,weight_norm=free --arm loss=logit-adjusted

# Figure 2: two features, margins 1 to 4, in full at the end.
full() { echo "loss=lsoftmax:margin=$1,lambda_min=0,weight_norm=shared"; }
# shellcheck disable=SC2086
lmsm sweep $common --model paper-2d --neck linear --batch-size 64 --lr 0.01 --epochs "${EPOCHS:-5}" --out runs/mnist-figure \
    --arm "$(full 1)" --arm "$(full 2)" --arm "$(full 3)" --arm "$(full 4)"
