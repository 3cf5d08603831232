#!/bin/sh
# The study of long-tailed CIFAR-10 (exp 0.01, resnet32, 30 epochs), as cifar10-tail.md says: its protocol, written before the first run.
#   THREADS=1 sh benchmarks/studies/cifar10-tail.sh first                       seeds 0 to 2; it takes 12 arms x 3 runs of 16 to 20 minutes on an idle core
#   THREADS=1 sh benchmarks/studies/cifar10-tail.sh confirm "SPEC" DECAY DECAY  seeds 3 to 12: the chosen L-Softmax, and the weight decays that
#                                                                               were chosen for balanced softmax and softmax
# It does what is missing below runs/; start it once a core to share the work.
set -e
prior="lambda_min=0,tau=1,weight_norm=shared"
auto="lsoftmax:margin=auto,$prior"

# seeds, folder, then each arm as LOSS or LOSS@DECAY, the weight decay
sweep() {
    seeds=$1 out=$2
    shift 2
    for arm in "$@"; do
        case $arm in *@*) decay=${arm#*@} ;; *) decay=0.0002 ;; esac
        set -- "$@" --arm "loss=${arm%@*} weight_decay=$decay"
        shift
    done
    lmsm sweep --dataset cifar10 --imbalance exp --factor 0.01 --validation 0 --augment crop-flip --model resnet32 --neck bn \
        --batch-size 128 --optimizer sgd --lr 0.1 --momentum 0.9 --schedule multistep --milestones 24,27 --gamma 0.01 --warmup 1 \
        --epochs 30 --seeds "$seeds" --precision bf16 --threads "${THREADS:-0}" --quiet --out "runs/$out" "$@"
}

case $1 in
    first)
        sweep 0,1,2 cifar10-tail-first balanced-softmax "$auto,margin_max=1.3" "lsoftmax:margin=1,$prior" "$auto,margin_max=1.6" \
            "$auto,margin_max=2" "$auto,margin_max=1.3,margin_power=1" "$auto,margin_max=1.3,feature_norm=16" \
            "$auto,margin_max=1.3,margin_on=hard" dbm softmax balanced-softmax@0.0005 softmax@0.0005
        ;;
    confirm) sweep 3,4,5,6,7,8,9,10,11,12 cifar10-tail-confirm "$2" "balanced-softmax@$3" "softmax@$4" ;;
    *) echo "error: give first, or confirm SPEC DECAY DECAY" >&2 && exit 2 ;;
esac
