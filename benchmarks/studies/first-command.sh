#!/bin/sh
# What the first command on some images gives, `lmsm train --dataset X` alone, beside the best recipe known here; three seeds each.
#   python benchmarks/own_folders.py own && OWN=own THREADS=1 sh benchmarks/studies/first-command.sh
# It does what is missing below runs/. PARTS: recipe, default; SETS: digits, digits-tail, mnist-tail, mnist-300, small, large, two.
set -e
own=${OWN:-own}

train() {
    out=$1
    shift
    lmsm sweep "$@" --seeds 3 --threads "${THREADS:-0}" --quiet --out "runs/first-$out"
}

# A name of a set -> its images.
images() {
    case $1 in
        digits) echo "--dataset digits" ;;
        digits-tail) echo "--dataset digits --imbalance exp --factor 0.05" ;;
        mnist-tail) echo "--dataset mnist --images-per-class 600 --imbalance exp --factor 0.01" ;;
        mnist-300) echo "--dataset mnist --images-per-class 300" ;;
        *) echo "--dataset folder --data-dir $own/$1" ;;
    esac
}

# The recipe of digits.sh, those of mnist.sh, and for class folders what the field trains small CIFAR with.
recipe() {
    sgd="--neck bn --validation 0 --optimizer sgd --schedule cosine --precision fp32"
    case $1 in
        digits*) echo "--model paper-mnist $sgd --lr 0.05 --batch-size 32 --epochs 30 --loss lsoftmax:margin=auto,margin_max=4,weight_norm=shared,lambda_min=1" ;;
        mnist-tail) echo "--model resnet32 $sgd --lr 0.1 --batch-size 64 --warmup 1 --epochs 20 --loss logit-adjusted" ;;
        mnist-300) echo "--model paper-mnist $sgd --lr 0.05 --batch-size 32 --epochs 5 --loss lsoftmax:margin=3,lambda_min=0,weight_norm=shared" ;;
        two) echo "--model resnet32 $sgd --lr 0.02 --batch-size 8 --warmup 1 --epochs 100 --augment crop-flip" ;;
        *) echo "--model resnet32 $sgd --lr 0.05 --batch-size 32 --warmup 1 --epochs 60 --augment crop-flip" ;;
    esac
}

for part in ${PARTS:-recipe default}; do
    for set in ${SETS:-digits digits-tail mnist-tail mnist-300 two small large}; do
        # shellcheck disable=SC2046
        case $part in
            recipe) train "recipe-$set" $(images "$set") $(recipe "$set") ;;
            default) train "default-$set" $(images "$set") ;;
        esac
    done
done
