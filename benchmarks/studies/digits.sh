#!/bin/sh
# What makes L-Softmax work: one change at a time from one recipe, on long-tailed digits (361 training
# images, 107 of the commonest class, 4 of the rarest; in every install). 500 runs, most of 15 to 45 seconds.
# `sh benchmarks/studies/digits.sh` does what is missing below runs/; start it once a core to share the work. PARTS: some of the studies below.
set -e
M1=loss=lsoftmax:margin=1,weight_norm=shared
M2=loss=lsoftmax:margin=2,weight_norm=shared

# Every study holds its changes against the same runs, which are trained once.
study() {
    case " ${PARTS:-$1} " in *" $1 "*) ;; *) return 0 ;; esac
    out=runs/digits-$1
    shift
    if [ "$out" != runs/digits-base ] && [ "${seeds:-5}" = 5 ]; then
        mkdir -p "$out"
        cp -rn runs/digits-base/* "$out/" 2>/dev/null || sleep 2 # another process copies them
    fi
    if [ "$1" != --arm ] || [ "$2" != "loss=softmax epochs=30" ]; then # that study varies the epochs
        set -- --epochs 30 --arm loss=softmax --arm "$M2" "$@"
    fi
    lmsm sweep --preset digits --factor 0.05 --seeds "${seeds:-5}" --device cpu --precision fp32 \
        --threads 1 --quiet --out "$out" "$@" \
        || [ $? -eq 1 ] # a run that diverges is a result too
}

study base
study norms --arm "$M1" --arm loss=lsoftmax:margin=2,weight_norm=free \
    --arm loss=lsoftmax:margin=4,weight_norm=shared --arm loss=lsoftmax:margin=4,weight_norm=free
study lambda --arm "$M2,lambda_min=0" --arm "$M2,lambda_min=0.5" --arm "$M2,lambda_min=3" --arm "$M2,lambda_min=9"
study margin --arm "$M1" --arm loss=lsoftmax:margin=3,weight_norm=shared --arm loss=lsoftmax:margin=4,weight_norm=shared \
    --arm loss=lsoftmax:margin=4,weight_norm=shared,lambda_min=2 \
    --arm loss=lsoftmax:margin=4,weight_norm=shared,lambda_min=0
study rare --arm loss=lsoftmax:margin=auto,margin_max=2,weight_norm=shared,lambda_min=0 \
    --arm loss=lsoftmax:margin=auto,margin_max=2,weight_norm=shared,lambda_min=1 \
    --arm loss=lsoftmax:margin=auto,margin_max=4,weight_norm=shared,lambda_min=1 \
    --arm loss=lsoftmax:margin=auto,margin_max=4,weight_norm=shared,lambda_min=5
study prior --arm loss=logit-adjusted:tau=1 --arm "$M1,tau=1" --arm "$M2,tau=0.5" --arm "$M2,tau=1"
study deferred --arm "loss=softmax reweight=effective rebalance_from=25" \
    --arm "$M1 reweight=effective rebalance_from=25" --arm "$M2 reweight=effective rebalance_from=25" \
    --arm "loss=ldam reweight=effective rebalance_from=25"
study schedule --arm "$M2,anneal=exponential" --arm "$M2,anneal=cosine" --arm "$M2,anneal=linear" \
    --arm "$M2,anneal_end=0.5" --arm "$M2,anneal=constant,lambda_min=1" --arm "$M2,anneal=none"
# At lr 0.05 softmax diverges on features without BatchNorm.
study features --arm "loss=softmax neck=bn lr=0.01" --arm "$M2 neck=bn lr=0.01" --arm "loss=softmax neck=relu lr=0.01" \
    --arm "$M2 neck=relu lr=0.01" --arm "loss=softmax neck=prelu lr=0.01" --arm "$M2 neck=prelu lr=0.01" \
    --arm "loss=softmax neck=linear lr=0.01" --arm "$M2 neck=linear lr=0.01"
study head --arm loss=lsoftmax:margin=2,weight_norm=free --arm loss=lsoftmax:margin=2,weight_norm=detached \
    --arm "loss=lsoftmax:margin=2,weight_norm=free head_weight_decay=0" --arm "$M2 head_weight_decay=0" \
    --arm "loss=softmax head_weight_decay=0"
study decay --arm "loss=softmax weight_decay=0" --arm "$M2 weight_decay=0" \
    --arm "loss=softmax weight_decay=0.005" --arm "$M2 weight_decay=0.005"
study losses --arm loss=asoftmax --arm loss=cosface --arm loss=arcface --arm loss=ldam --arm loss=focal \
    --arm loss=large-margin-in-softmax --arm loss=balanced-softmax --arm loss=vs
study length --arm "loss=softmax epochs=30" --arm "$M2 epochs=30" --arm "loss=softmax epochs=10" --arm "$M1 epochs=10" \
    --arm "$M2 epochs=10" --arm "loss=softmax epochs=90" --arm "$M2 epochs=90"

# What the studies above found, on seeds that had no part in finding it.
seeds=5,6,7,8,9,10,11,12,13,14
study confirm --arm loss=lsoftmax:margin=auto,margin_max=4,weight_norm=shared,lambda_min=1 --arm loss=logit-adjusted:tau=1
study confirm-lr --lr 0.01 --arm loss=lsoftmax:margin=auto,margin_max=4,weight_norm=shared,lambda_min=1 --arm loss=logit-adjusted:tau=1
# What long-tailed CIFAR-10 chose as the default of long tails (cifar10-tail.md), on the digits and on the same fresh seeds.
study tail --arm loss=lsoftmax:margin=auto --arm loss=logit-adjusted:tau=1 --arm loss=lsoftmax:margin=tail
study tail-lr --lr 0.01 --arm loss=lsoftmax:margin=auto --arm loss=logit-adjusted:tau=1 --arm loss=lsoftmax:margin=tail
