"""What tables_predictions.py promises: no name of a file is broken where it fits a line."""

from lmsm_cli.reports.tables_predictions import folded_path, predictions_table
from tests.test_tables import drawn, rows

LIKELY = [{"class": "cat", "probability": 0.9712}, {"class": "dog", "probability": 0.02}]
PREDICTED = {
    "top": 2,
    "epoch": 1,
    "epochs": 2,
    "is_best": False,
    "num_failed": 1,
    "images": [
        {"file": "a/[red]x.png", "error": None, "predictions": LIKELY},
        {"file": "b.png", "error": "is not an image that can be read", "predictions": []},
    ],
}


def test_predictions_table_has_a_row_for_each_file():
    """File, then class and percent by rank; a file that failed has its reason instead."""
    lines = rows(predictions_table(PREDICTED))
    assert ["file", "1", "%", "2", "%", "error"] in lines
    assert ["a/[red]x.png", "cat", "97.1", "dog", "2.0"] in lines
    assert "b.png - - - - is not an image that can be read" in map(" ".join, lines)
    good = PREDICTED | {"num_failed": 0, "images": PREDICTED["images"][:1]}
    assert "error" not in drawn(predictions_table(good))


def test_predictions_fold_on_a_narrow_terminal():
    """Five long class names at 80 columns: text folds, percents stay whole, nothing is cut."""
    names = [{"class": f"a rather long class name {k}", "probability": k / 10} for k in range(1, 6)]
    image = {"file": "some/folder/with/a/long/name.png", "error": None, "predictions": names}
    document = PREDICTED | {"top": 5, "num_failed": 0, "images": [image]}
    text = drawn(predictions_table(document, 80), 80)
    assert "…" not in text
    assert {"10.0", "20.0", "30.0", "40.0", "50.0"} <= set(text.split())
    assert "some/folder/with/a/long/name.png  a rather long class name 1  10.0" in text


def test_names_of_files_and_classes_are_whole_where_they_fit_a_line():
    """A long path ends its lines behind a separator; a pipe has one row for each file."""
    name = "photos/of the summer/at the lake/IMG_20260714_101112.jpg"
    document = PREDICTED | {
        "images": [PREDICTED["images"][0] | {"file": name}, *PREDICTED["images"]]
    }
    lines = rows(predictions_table(document, 60), 60)
    assert ["IMG_20260714_101112.jpg"] in lines
    assert ["photos/of", "the", "summer/at", "the", "lake/", "cat", "97.1"] in lines
    assert ["b.png", "is", "not", "an", "image", "-"] in lines
    assert name in drawn(predictions_table(document, 4000), 4000)
    assert folded_path("a/b.png", 80) == ["a/b.png"]
