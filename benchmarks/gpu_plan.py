"""Which rows `gpu.sh` measures, in which order and in how many seconds, against which targets.

Imports no torch. To add a row, plan it in a section here, and let a part of that section in
gpu_sections.py or gpu_trainings.py yield it.
"""

from dataclasses import dataclass

from train_gpu import MFU_TARGETS, RECIPES, TIME_TO

BATCH, WIDTH = 1024, 512
TRAINING_GFLOP = {"resnet18": 0.838, "resnet18-cifar": 3.329, "vgg16": 1.876, "resnet32": 0.412}
"""Of an image of 32 x 32 pixels: 6 times the multiply-adds, without the first layer's images."""
LONG_TAIL, BALANCED = 20_431, 45_000  # training images


@dataclass(frozen=True)
class Work:
    """What a row cannot do without: products in GFLOP and bytes moved in GB, of all it times."""

    gflop: float
    gigabytes: float = 0.0

    def seconds(self, tflops: float, terabytes: float) -> float:
        """Return the time at a card's measured peak and copying rate."""
        return max(self.gflop / tflops, self.gigabytes / terabytes) / 1000


@dataclass(frozen=True)
class Planned:
    """A row: its name within its section, its unit, and what is asked of it.

    `number` is that of the list of targets, `work` gives a floor.
    """

    name: str
    unit: str
    target: str = ""
    number: str = ""
    work: Work | None = None


@dataclass(frozen=True)
class Section:
    """Rows that one process measures within `limit` seconds."""

    name: str
    limit: int
    rows: tuple[Planned, ...]
    needs_data: bool = False
    """Whether it trains on CIFAR-10."""


def _products(passes: int, batch: int, classes: int) -> Work:
    """Return so many products of features and class weights, each of two flop a multiply-add."""
    return Work(passes * batch * classes * WIDTH / 1e9)


def _works() -> tuple[Planned, ...]:
    limits = {"loss": "<= 1e-6", "feature gradient": "<= 1e-5", "weight gradient": "<= 1e-5"}
    exact = [Planned(f"fp32: {name}", "error", limit, "10") for name, limit in limits.items()]
    coarse = [Planned(f"bf16: {name}", "error", "<= 1e-2", "10") for name in limits]
    return (
        *exact,
        *coarse,
        Planned("p_y = 1 - 1e-9: not finite", "entries", "<= 0", "10"),
        Planned("every head, fp32 features: worst error", "error", "<= 1e-4"),
        Planned("every head, bf16 features: worst error", "error", "<= 2e-2"),
        Planned("graph against eager: weights differ by", "error", "<= 1e-4"),
        Planned("stopped and gone on: weights differ by", "error", "<= 1e-4"),
        Planned("warnings of these trainings", "warnings", "<= 0"),
        Planned("out of memory: exit code", "", "7 to 7"),
    )


def _recipes() -> tuple[Planned, ...]:
    rows = []
    for name, (_, target) in RECIPES.items():
        model = name.partition(",")[0]
        images = 10 * (LONG_TAIL if "long tail" in name else BALANCED)
        number = "13" if model == "resnet18" else "14"
        rows.append(Planned(name, "s", target, number, Work(images * TRAINING_GFLOP[model])))
    return tuple(rows)


def _mfu() -> tuple[Planned, ...]:
    rows = [Planned("bf16 peak, 8192^3", "TFLOP/s")]
    for model, target in MFU_TARGETS.items():
        number = "11" if model == "resnet18-cifar" else "12"
        work = Work(TRAINING_GFLOP[model])
        rows.append(Planned(f"{model}, batch 512", "img/s", "", number, work))
        rows.append(Planned(f"{model}: share of the peak here", "share", target, number))
    return tuple(rows)


def _classes() -> tuple[Planned, ...]:
    rows = []
    for classes in ("1,000", "10,000", "100,000"):
        rows.append(Planned(f"C = {classes}: time / softmax", "x", "<= 1.03", "3"))
        rows.append(Planned(f"C = {classes}: peak memory / softmax", "x", "<= 1.01", "3"))
    work = _products(8, BATCH, 100_000)
    return (
        *rows,
        Planned("C = 100,000 in chunks: time / softmax", "x", "<= 0.75", "4"),
        Planned("C = 100,000 in chunks: time", "ms", "<= 1.0", "4", work),
        Planned("C = 100,000 in chunks: transient memory / softmax", "x", "<= 0.1", "4"),
    )


def _accuracy(accuracy: float, seeds: str, seconds: str = "") -> tuple[Planned, ...]:
    epochs, limit = TIME_TO.get(accuracy, (200, "<= 110"))
    work = Work(50_000 * epochs * TRAINING_GFLOP["resnet18-cifar"])
    name = f"{epochs} epochs, {seeds}"
    return (
        Planned(f"{name}: training", "s", seconds or limit, "17", work),
        Planned(f"{name}: test accuracy", "share", f">= {accuracy}", "17"),
    )


_TEN_MILLION = Work(
    8 * 512 * 10_000_000 * WIDTH / 1e9,
    # weights read twice; gradient written and read; weights and momentum read and written
    8 * 4 * 10_000_000 * WIDTH / 1e9,
)

PLAN = (
    Section(
        "facts",
        15,
        (Planned("bf16 peak, 8192^3", "TFLOP/s"), Planned("copy, read and write", "TB/s")),
    ),
    Section("works", 40, _works()),
    Section(
        "loss",
        15,
        (
            Planned("graph: time / softmax", "x", "<= 1.3", "1"),
            Planned("graph: time - softmax", "us", "<= 15", "1"),
            Planned("eager: time - softmax", "us", "<= 120", "1"),
            Planned("kernels, the more of two margins", "kernels", "<= 25", "1"),
            Planned("kernels of softmax", "kernels", "", "1"),
        ),
    ),
    Section(
        "step",
        20,
        (
            Planned("graph: step / softmax step", "x", "<= 1.01", "2"),
            Planned("kernels of a step of softmax", "kernels", "", "2"),
            Planned("kernels more with a margin", "kernels", "<= 20", "2"),
        ),
    ),
    Section(
        "recipe",
        40,
        (
            Planned("10 epochs of training", "s", "<= 1.0", "13", _recipes()[0].work),
            Planned("start to run folder", "s", "<= 8", "15"),
        ),
        needs_data=True,
    ),
    Section("mfu", 30, _mfu(), needs_data=True),
    Section("classes", 20, _classes()),
    Section(
        "million",
        25,
        (
            Planned("C = 1,000,000: time", "ms", "<= 9", "5", _products(8, BATCH, 1_000_000)),
            Planned("C = 1,000,000: transient memory", "GB", "<= 0.2", "5"),
            Planned("slope of time, C = 10,000 to 2,000,000", "", "0.95 to 1.05", "9"),
            Planned("slope of transient memory", "", "<= 0.05", "9"),
        ),
    ),
    Section(
        "loop",
        25,
        (
            Planned("seed's loop, batch 128", "img/s", "", "16"),
            Planned("lmsm, batch 128", "img/s", "", "16", Work(TRAINING_GFLOP["resnet18"])),
            Planned("lmsm / seed's loop", "x", ">= 10", "16"),
            Planned("crop-flip step, batch 512", "ms", "", "16"),
            Planned("share of making its batch", "share", "<= 0.02", "16"),
        ),
        needs_data=True,
    ),
    Section("accuracy-94", 55, _accuracy(0.94, "seeds 0 to 4"), needs_data=True),
    Section("recipes", 45, _recipes(), needs_data=True),
    Section(
        "rivals",
        35,
        (
            Planned("pytorch-metric-learning / ours, C = 10", "x", ">= 3", "6"),
            Planned("pytorch-metric-learning / ours, C = 100,000", "x", ">= 5", "6"),
            Planned("pytorch-metric-learning / ours, C = 1,000,000", "x", ">= 8", "6"),
            Planned("its transient memory / ours, C = 1,000,000", "x", ">= 20", "6"),
            Planned("Liger / ours, C = 1,000,000", "x", ">= 10", "7"),
            Planned("cut-cross-entropy, exact / ours, C = 1,000,000", "x", ">= 1", "7"),
            Planned("torch's linear_cross_entropy / ours, C = 1,000,000", "x", ">= 1", "7"),
        ),
    ),
    Section(
        "ten-million",
        20,
        (
            Planned(
                "C = 10,000,000, batch 512: time, SGD included", "ms", "<= 60", "8", _TEN_MILLION
            ),
            Planned("peak memory", "GB", "", "8"),
        ),
    ),
    Section(
        "scaling",
        15,
        (
            Planned("seconds of 10 epochs = a + b n: a", "s", "< 0.2", "21"),
            Planned("b", "us/img", "", "21"),
            Planned("R^2", "", "> 0.999", "21"),
        ),
        needs_data=True,
    ),
    Section("accuracy-95", 70, _accuracy(0.95, "seeds 0 to 2"), needs_data=True),
    # What the eight minutes have no room for; a second call goes on here.
    Section("accuracy-95-more", 50, _accuracy(0.95, "seeds 3 and 4"), needs_data=True),
    Section(
        "seeds",
        60,
        (
            Planned("4 seeds one after the other", "img/s"),
            Planned("4 seeds at once", "img/s"),
            Planned("at once / one after the other", "x", ">= 2"),
            Planned("weights of a seed differ by", "error", "<= 1e-3"),
        ),
    ),
    Section(
        "airbench",
        420,
        (
            Planned("airbench94_muon: training", "s", "", "18"),
            Planned("airbench94_muon: test accuracy", "share", "", "18"),
        ),
        needs_data=True,
    ),
    Section("accuracy-96", 150, _accuracy(0.96, "seed 0"), needs_data=True),
    Section(
        "long-tail",
        3600,
        (Planned("long-tailed CIFAR-10, resnet32, 200 epochs: runs finished", "runs"),),
        needs_data=True,
    ),
)
