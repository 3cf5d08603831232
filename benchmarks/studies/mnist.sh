#!/bin/sh
# The paper's MNIST, in short: a tenth of the images, so that two CPU cores do it in about two hours.
# `sh benchmarks/studies/mnist.sh` does what is missing below runs/; start it once a core to share the work. PARTS: tail, figure, errors.
# With a GPU: IMAGES=7000 ERROR_IMAGES=7000 EPOCHS=20 sh benchmarks/studies/mnist.sh trains on all images.
set -e
common="--dataset mnist --validation 0 --optimizer sgd --momentum 0.9 --weight-decay 0.0005
    --schedule cosine --seeds 3 --precision fp32 --threads ${THREADS:-1} --quiet"
images="--images-per-class ${IMAGES:-600}"

# A long tail on MNIST, exp 0.01: the features of resnet32 as they are, never negative, and through a linear layer and BatchNorm.
tail() {
    # shellcheck disable=SC2086
    lmsm sweep $common $images --imbalance exp --factor 0.01 --model resnet32 --batch-size 64 --lr 0.1 --warmup 1 ${COMPILE:+--compile} \
        --epochs "${EPOCHS:-20}" "$@" --arm loss=softmax --arm loss=lsoftmax:margin=2,weight_norm=shared \
        --arm loss=lsoftmax:margin=auto,margin_max=4,weight_norm=shared,lambda_min=1
}
# Margins 1 to 4, in full at the end; margin 1 is softmax with one norm for all class weights.
full() { echo "loss=lsoftmax:margin=$1,lambda_min=0,weight_norm=shared"; }
margins() { lmsm sweep $common --epochs "${EPOCHS:-5}" --batch-size 32 "$@" --arm "$(full 1)" --arm "$(full 2)" --arm "$(full 3)" --arm "$(full 4)"; }

for part in ${PARTS:-tail figure errors}; do
    # shellcheck disable=SC2086
    case $part in
        tail)
            tail --neck none --out runs/mnist-lt
            tail --neck bn --out runs/mnist-lt-bn --arm loss=lsoftmax:margin=2,weight_norm=free --arm loss=logit-adjusted
            ;;
        figure) margins $images --model paper-2d --neck linear --lr 0.01 --out runs/mnist-figure ;; # two features
        errors) margins --images-per-class "${ERROR_IMAGES:-300}" --model paper-mnist --neck bn --lr 0.05 --out runs/mnist-errors ;;
        *) echo "error: PARTS has no '$part', but tail, figure, errors" >&2 && exit 2 ;;
    esac
done
