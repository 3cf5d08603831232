"""Scores and run folders made up in a moment, as those of real runs."""

import io
import json
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from lmsm_cli.data.identity import DIGEST_BYTES, PARTS, ImagesRecord, as_digests
from lmsm_cli.runs.documents import ScoresDocument, build
from lmsm_cli.runs.folder import RunFolder
from lmsm_cli.runs.images import Predictions, write_images, write_predictions
from lmsm_cli.runs.record import find_runs, read_run
from lmsm_cli.scoring import score

CONFIG = {
    "dataset": "digits",
    "imbalance": "exp",
    "factor": 0.1,
    "model": "paper-2d",
    "loss": "softmax",
    "epochs": 10,
    "seed": 0,
}
SHARES = ("accuracy", "precision", "f1")
ENVIRONMENT = {
    "lmsm": "0.1.0",
    "torch": "2.14.1",
    "device": "CPU, 2 threads",
    "git": {"commit": "c" * 40, "dirty": True},
    "command": [".venv/bin/lmsm", "train", "--loss", "soft max"],
}


@cache
def _noise() -> bytes:
    """Return a picture that no format makes small."""
    pixels = np.random.default_rng(0).integers(0, 255, (400, 400, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).resize((800, 800)).save(encoded, "PNG")
    return encoded.getvalue()


def scores_json(accuracies, *, train=(30, 3), test=(10, 10), names=("cat", "dog"), **more):
    """Return a scores.json with these accuracies of classes, None where one has no image."""
    known = [one for one in accuracies if one is not None]
    means = ("accuracy", "balanced_accuracy", "macro_f1", "macro_precision", "macro_recall")
    rows = zip(names, train, test, accuracies, strict=True)
    return {
        **dict.fromkeys(means, sum(known) / len(known)),
        "per_class": [
            {"name": name, "train_count": n, "test_count": k} | dict.fromkeys(SHARES, accuracy)
            for name, n, k, accuracy in rows
        ],
        "confusion": [[0] * len(names)] * len(names),
        "groups": {"many": accuracies[0], "medium": None, "few": accuracies[-1]},
        **more,
    }


def records_in(*folders):
    """Return the runs in the folders, read."""
    return [read_run(path) for path in find_runs(folders)]


def document(values, model=ScoresDocument):
    """Return scores.json, or what `lmsm eval` gives, as the package passes it on."""
    return build(model, values)


def scores_of(names, *, seed=0, right=0.8, per_class=20, train_counts=None):
    """Return the scores.json of made-up predictions that are right in so many cases."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(names)), per_class)
    logits = generator.normal(size=(len(labels), len(names)))
    is_right = generator.random(len(labels)) < right
    logits[np.arange(len(labels)), np.where(is_right, labels, (labels + 1) % len(names))] += 4
    counts = train_counts or [int(500 * 0.8**number) + 5 for number in range(len(names))]
    document = score(names, labels, logits.argmax(1), counts, logits).to_json()
    training = {"seconds": 60.0 + seed, "images_per_second": 1000.0 + seed}
    return document | {
        "checkpoint": "checkpoint.pt",
        "effective_margin": None,
        "training": training,
    }


def metrics_of(epochs, *, seed=0, lam=None):
    """Return rows of metrics.jsonl."""
    noise = np.random.default_rng(seed).random((epochs, 5)) * 0.05
    return [
        {
            "epoch": epoch,
            "train_loss": 2 / epoch + a,
            "val_loss": 2.2 / epoch + b,
            "train_accuracy": 1 - 1 / (epoch + 1) - c,
            "val_accuracy": 0.95 - 0.9 / (epoch + 1) - d,
            "val_balanced_accuracy": 0.93 - 0.9 / (epoch + 1) - e,
            "lr": 0.1 * 0.97**epoch,
            "lambda": lam and lam / epoch,
            "effective_margin": lam and 1 + epoch / epochs,
        }
        for epoch, (a, b, c, d, e) in enumerate(noise.tolist(), 1)
    ]


def images_of(classes, **parts):
    """Return which images a run had: for each part a number for each image, that of its content.

    Images are of the classes in turn: number 3 of two classes is always of the second.
    """
    numbers = [
        (place, number) for place, part in enumerate(PARTS) for number in parts.get(part, ())
    ]
    split, contents = (np.array(column) for column in zip(*numbers, strict=True))
    digests = as_digests([int(number).to_bytes(DIGEST_BYTES, "big") for number in contents])
    labels, half = contents % len(classes), (0.5,)
    return ImagesRecord(
        tuple(classes), split.astype(np.uint8), labels, digests, contents, half, half
    )


def write_run(
    out: Path,
    name: str,
    *,
    scores=None,
    metrics=(),
    state="completed",
    picture=False,
    environment=None,
    images=None,
    **config,
) -> Path:
    """Write a run folder and return its path."""
    folder = RunFolder.create(out, name)
    values = CONFIG | config
    folder.write_config("".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items()))
    folder.write_status(state, exit_code=0)
    folder.write_environment((environment or ENVIRONMENT) | {"asked": f"{name}'s own"})
    folder.write_metrics(metrics)
    if scores:
        more = {"images": images.scored} if images else {}
        folder.write_scores(document(scores | more))
    if images:
        write_images(folder.path, images)
    if picture:
        folder.plots.mkdir()
        (folder.plots / "features.png").write_bytes(_noise())
    return folder.path


def write_runs(out: Path, losses, seeds, *, num_classes=10, epochs=10, pictures=False) -> None:
    """Write runs of each loss and seed; the second loss is better than the first, and so on."""
    names = [f"class {number}" for number in range(num_classes)]
    for place, loss in enumerate(losses):
        for seed in range(seeds):
            scores = scores_of(names, seed=100 * place + seed, right=min(0.7 + 0.2 * place, 0.95))
            scores["effective_margin"] = 1.5 if place else None
            rows = metrics_of(epochs, seed=seed, lam=5.0 if place else None)
            files = {"scores": scores, "metrics": rows, "picture": pictures}
            write_run(out, f"{place}-{seed}", loss=loss, seed=seed, **files)


def write_predicting_run(
    out: Path, name: str, images: ImagesRecord, logits, train_counts, **more
) -> Path:
    """Write a run folder with scores and predictions that follow from logits (N, C).

    `more` goes to write_run.
    """
    logits, labels = np.asarray(logits, np.float32), images.of("test").labels
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    predicted = logits.argmax(1)
    scores = score(images.classes, labels, predicted, train_counts, logits).to_json()
    scores |= {"checkpoint": "checkpoint.pt", "effective_margin": None}
    run = write_run(out, name, scores=scores, images=images, **more)
    own = shares[np.arange(len(labels)), labels]
    write_predictions(run, Predictions(labels, predicted, own, logits))
    return run
