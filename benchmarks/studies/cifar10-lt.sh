#!/bin/sh
# Long-tailed CIFAR-10 with resnet32: LDAM-DRW's recipe (Cao et al. 2019), shortened in proportion where EPOCHS is less than 200.
#   EPOCHS=200 sh benchmarks/studies/cifar10-lt.sh                       all losses, exp 0.01 and 0.1, step 0.01; for a GPU
#   EPOCHS=30 TAILS=exp-0.01 NECKS=bn PRECISION=bf16 ARMS="softmax lsoftmax-auto" THREADS=1 COMPILE=1 sh benchmarks/studies/cifar10-lt.sh
# It does what is missing below runs/; start it several times to share the work. All training images, last epoch.
# NECKS: none as published; bn puts a linear layer and BatchNorm between net and head (LOG.md: why).
set -e
epochs=${EPOCHS:-200}
late=$((epochs * 4 / 5)) latest=$((epochs * 9 / 10)) warmup=$(((epochs + 39) / 40))
drw="reweight=effective rebalance_from=$((late + 1))"

# A name of an arm -> its choices.
arm() {
    case $1 in
        softmax) echo "loss=softmax" ;;
        softmax-drw) echo "loss=softmax $drw" ;;
        lsoftmax) echo "loss=lsoftmax:margin=2,weight_norm=shared" ;;
        lsoftmax-free) echo "loss=lsoftmax:margin=2,weight_norm=free" ;;
        lsoftmax-4) echo "loss=lsoftmax:margin=4,weight_norm=shared" ;;
        lsoftmax-auto) echo "loss=lsoftmax:margin=auto,margin_max=4,weight_norm=shared,lambda_min=1" ;;
        lsoftmax-auto-prior) echo "loss=lsoftmax:margin=auto,margin_max=4,weight_norm=shared,lambda_min=1,tau=1" ;;
        lsoftmax-auto-drw) echo "loss=lsoftmax:margin=auto,margin_max=4,weight_norm=shared,lambda_min=1 $drw" ;;
        lsoftmax-prior) echo "loss=lsoftmax:margin=2,weight_norm=shared,tau=1" ;;
        lsoftmax-drw) echo "loss=lsoftmax:margin=2,weight_norm=shared $drw" ;;
        ldam-drw) echo "loss=ldam $drw" ;;
        kobayashi) echo "loss=large-margin-in-softmax" ;;
        *) echo "loss=$1" ;;
    esac
}
all="softmax softmax-drw lsoftmax lsoftmax-free lsoftmax-4 lsoftmax-auto lsoftmax-prior lsoftmax-auto-prior lsoftmax-drw lsoftmax-auto-drw
    asoftmax cosface arcface ldam ldam-drw balanced-softmax logit-adjusted:tau=0.5 vs focal kobayashi"

for tail in ${TAILS:-exp-0.01 exp-0.1 step-0.01}; do
    set --
    for neck in ${NECKS:-none bn}; do
        for name in ${ARMS:-$all}; do set -- "$@" --arm "neck=$neck $(arm "$name")"; done
    done
    lmsm sweep --dataset cifar10 --imbalance "${tail%-*}" --factor "${tail#*-}" --validation 0 --augment crop-flip \
        --model resnet32 --batch-size 128 --optimizer sgd --lr 0.1 --momentum 0.9 --weight-decay 0.0002 \
        --schedule multistep --milestones "$late,$latest" --gamma 0.01 --warmup "$warmup" --epochs "$epochs" --seeds "${SEEDS:-3}" \
        --precision "${PRECISION:-fp32}" --threads "${THREADS:-0}" ${COMPILE:+--compile} --quiet --out "runs/cifar10-lt-$tail" "$@"
done
