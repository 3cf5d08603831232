"""The table of metrics, and what scores.json holds."""

import json

import numpy as np
import pytest

from lmsm_cli.comparison.grouping import compare_runs
from lmsm_cli.metrics import METRICS, Metric
from lmsm_cli.reports.comparison_tables import comparison_tables
from lmsm_cli.reports.exports import to_csv
from lmsm_cli.reports.html.page import page
from lmsm_cli.reports.tables import summary_table
from lmsm_cli.scoring import score
from tests.test_grouping import run

# 4 cats: 3 right, 1 called dog; 2 dogs: 1 right, 1 called owl; 4 owls: all right
LABELS = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 2])
PREDICTIONS = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 2])


def test_worst_class_accuracy_is_the_lowest_recall_of_classes_present():
    """The dog's 1 of 2 is the least; a class without a test image, or two, has no part in it."""
    metric = METRICS["worst_class_accuracy"]
    scores = score(["cat", "dog", "owl", "bat"], LABELS, PREDICTIONS, [30, 20, 10, 5])
    assert metric.get(scores) == scores.to_json()["worst_class_accuracy"] == 1 / 2
    assert metric.get(score(["cat", "dog"], LABELS[:4], PREDICTIONS[:4], [3, 2])) == 3 / 4


def test_json_has_the_keys_of_the_run_folder_and_is_strict():
    """to_json survives a strict JSON round trip with exactly the keys of scores.json."""
    document = score(["cat", "dog", "owl"], LABELS, PREDICTIONS, [3, 2, 1]).to_json()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert " ".join(document) == (
        "accuracy balanced_accuracy macro_f1 macro_precision macro_recall per_class confusion "
        "groups top_k calibration_error reliability worst_class_accuracy"
    )
    row = document["per_class"][0]
    assert " ".join(row) == "name train_count test_count accuracy precision f1"


def test_a_line_of_the_table_is_shown_everywhere(monkeypatch):
    """A new error, of which less is better, is sorted, marked and shown without further words."""
    metric = Metric(
        "error_rate", "error rate", lambda s: 1 - s.accuracy, higher_is_better=False, derived=True
    )
    monkeypatch.setitem(METRICS, metric.key, metric)
    softmax, focal = ((0.5, 0.5), (0.49, 0.49), (0.51, 0.51)), ((0.9, 0.7),) * 2 + ((0.9, 0.73),)
    records = [
        run(f"{loss}{seed}", accuracies, loss=loss, seed=seed)
        for loss, runs in (("softmax", softmax), ("focal", focal))
        for seed, accuracies in enumerate(runs)
    ]
    comparison = compare_runs(records, sort="error_rate")
    best, _ = comparison.groups
    assert best.label == "focal"
    assert best.differences["error_rate"].mean == pytest.approx(-0.305)
    table, *_ = comparison_tables(comparison)
    assert [str(cell) for cell in table.columns[-1].cells] == ["19.5±0.9*", "50.0±1.0 "]
    assert "error_rate,error_rate sd" in to_csv(comparison)
    assert '<th scope="col" class="n">Error rate</th>' in page(comparison, records)
    assert "error rate" in summary_table(records[0].scores).columns[0].cells
    assert records[0].scores.to_json()["error_rate"] == 0.5
