#!/bin/sh
# Does `lmsm study FOLDER --budget 20m` name the loss that a full comparison names? Three sets of class folders.
#   python benchmarks/own_folders.py own && OWN=own sh benchmarks/studies/study.sh
# It does what is missing below runs/. SETS: five, ten, two; BUDGET: of each study.
set -e
own=${OWN:-own}
for set in ${SETS:-five ten two}; do
    lmsm study "$own/study-$set" --budget "${BUDGET:-20m}" --threads "${THREADS:-0}" --quiet --out "runs/study-$set"
    python benchmarks/study_full.py train "$own/study-$set" "runs/study-$set"
done
python benchmarks/study_full.py table runs/study-*-full
