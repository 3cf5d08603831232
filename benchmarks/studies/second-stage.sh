#!/bin/sh
# Is a second stage on a frozen net as good as a training? Long-tailed CIFAR-10 (exp 0.01, resnet32, 30 epochs, a tenth held out), three seeds:
# softmax, which second stages then correct (`lmsm retrain`), and balanced softmax trained whole; 16 to 20 minutes a run on an idle core.
#   THREADS=1 sh benchmarks/studies/second-stage.sh
# It does what is missing below runs/. The recipe is that of cifar10-tail.sh, but for the images held out to choose the second stage on.
set -e
lmsm sweep --dataset cifar10 --imbalance exp --factor 0.01 --validation 0.1 --augment crop-flip --model resnet32 --neck bn \
    --batch-size 128 --optimizer sgd --lr 0.1 --momentum 0.9 --weight-decay 0.0002 --schedule multistep --milestones 24,27 --gamma 0.01 --warmup 1 \
    --epochs 30 --seeds 3 --precision bf16 --threads "${THREADS:-0}" --quiet --out runs/second-stage --grid loss=softmax,balanced-softmax
