"""The confusion of classes as one object, whatever order they come in."""

from lmsm_cli.reports.confusion import Confusion


def test_a_confusion_in_another_order_names_the_same_images():
    """Cell (i, j) of the ordered confusion is that of the i-th and j-th class of the order."""
    confusion = Confusion(3, {(0, 0): 5, (0, 2): 1, (1, 0): 7, (2, 1): 9})
    order = [1, 2, 0]
    matrix, ordered = confusion.matrix(), confusion.in_order(order)
    assert ordered.matrix() == [[matrix[true][guess] for guess in order] for true in order]
    assert ordered.totals() == [7, 9, 6]
