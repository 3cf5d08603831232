"""What published.py promises, on small files in the published formats; nothing is downloaded."""

import copyreg
import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from torchvision import datasets

from lmsm_cli.data.published import PUBLISHED
from lmsm_cli.data.sources import load
from lmsm_cli.errors import DataError


def md5(content: bytes) -> str:
    """Return the checksum that the tables hold."""
    return hashlib.md5(content).hexdigest()


def noise(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return random pixels."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


class OldPickler(pickle.Pickler):
    """Writes a dtype with align=0, as the NumPy of 2009 did, of which NumPy 2.4 warns."""

    dispatch_table = copyreg.dispatch_table.copy()
    dispatch_table[type(np.dtype("u1"))] = lambda dtype: (np.dtype, ("u1", 0))


def pickled(content: object) -> bytes:
    """Return the content as the published batches are pickled."""
    stream = io.BytesIO()
    OldPickler(stream, protocol=2).dump(content)
    return stream.getvalue()


def cifar_batch(seed: int, labels: list[int], key: str) -> bytes:
    """Return a batch: rows of 3,072 values, the red plane first."""
    return pickled({"data": noise(seed, (len(labels), 3072)), key: labels})


def small_cifar10() -> tuple[dict[str, bytes], dict[str, object]]:
    """Return six small CIFAR-10 files, name -> content, and what torchvision must know of them."""
    source = datasets.CIFAR10
    names = [name for name, _ in source.train_list + source.test_list]
    files = {name: cifar_batch(seed, [seed, 9 - seed], "labels") for seed, name in enumerate(names)}
    files["batches.meta"] = pickled({"label_names": [f"class {index}" for index in range(10)]})
    table = [[name, md5(files[name])] for name in names]
    meta = source.meta | {"md5": md5(files["batches.meta"])}
    return files, {"train_list": table[:5], "test_list": table[5:], "meta": meta}


@pytest.fixture
def cifar10(monkeypatch):
    """Six small CIFAR-10 files, name -> content, with their checksums in torchvision's table."""
    files, known = small_cifar10()
    for name, value in known.items():
        monkeypatch.setattr(datasets.CIFAR10, name, value)
    return files


def write(folder: Path, files: dict[str, bytes]) -> Path:
    """Write the files into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("place", ["", "cifar10"], ids=["data_dir", "data_dir/cifar10"])
def test_cifar10_batches_become_channels_last(cifar10, tmp_path, place):
    """Pixel (row, column) of channel c is value 1024 c + 32 row + column of the batch's line."""
    write(tmp_path / place / "cifar-10-batches-py", cifar10)
    images = load("cifar10", tmp_path, "train")
    assert images.images.shape == (10, 32, 32, 3)
    assert images.images.is_contiguous()
    assert images.labels.tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]
    assert images.classes == tuple(f"class {index}" for index in range(10))
    line = noise(3, (2, 3072))[1]
    for row, column, channel in [(0, 0, 0), (31, 31, 2), (5, 17, 1)]:
        assert images.images[7, row, column, channel] == line[1024 * channel + 32 * row + column]
    assert load("balanced", tmp_path, "test").labels.tolist() == [5, 4]


def test_data_dir_may_be_the_folder_of_the_batches(cifar10, tmp_path, monkeypatch):
    """cifar-10-batches-py itself, also as `.` or a link, is as good as the folder above it."""
    folder = write(tmp_path / "cifar-10-batches-py", cifar10)
    assert len(load("cifar10", folder, "train").labels) == 10
    monkeypatch.chdir(folder)
    assert len(load("cifar10", Path(), "train").labels) == 10
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to("elsewhere")
    assert len(load("cifar10", folder, "train").labels) == 10


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_unverified_pickle_is_never_opened(cifar10, tmp_path, name):
    """A batch whose checksum is wrong is named, and what is pickled inside never comes to life."""
    trap = tmp_path / "sprung"

    class Trap:
        def __reduce__(self):
            return (Path.touch, (trap,))

    write(tmp_path / "cifar-10-batches-py", cifar10 | {name: pickle.dumps(Trap())})
    for split in ("train", "test"):
        with pytest.raises(DataError, match=rf"cifar-10-batches-py/{name} is damaged.*delete it"):
            load("cifar10", tmp_path, split)
    assert not trap.exists()


def test_cifar100_takes_the_fine_labels(monkeypatch, tmp_path):
    """Labels of CIFAR-100 are the fine ones, and so are the class names."""
    source = datasets.CIFAR100
    files = {
        "train": cifar_batch(0, [99, 3], "fine_labels"),
        "test": cifar_batch(1, [50], "fine_labels"),
        "meta": pickled({"fine_label_names": [f"fine {index}" for index in range(100)]}),
    }
    monkeypatch.setattr(source, "train_list", [["train", md5(files["train"])]])
    monkeypatch.setattr(source, "test_list", [["test", md5(files["test"])]])
    monkeypatch.setattr(source, "meta", source.meta | {"md5": md5(files["meta"])})
    write(tmp_path / "cifar-100-python", files)
    images = load("cifar100", tmp_path, "train")
    assert images.labels.tolist() == [99, 3]
    assert images.classes[99] == "fine 99"


def idx(array: np.ndarray) -> bytes:
    """Return bytes in the idx format: two zeros, type 8, dimensions, big-endian sizes, values."""
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


@pytest.fixture
def mnist():
    """Small MNIST files, name -> content: five training and two test images."""
    return {
        "train-images-idx3-ubyte": idx(noise(0, (5, 28, 28))),
        "train-labels-idx1-ubyte": idx(np.array([5, 0, 4, 1, 9], np.uint8)),
        "t10k-images-idx3-ubyte": idx(noise(1, (2, 28, 28))),
        "t10k-labels-idx1-ubyte": idx(np.array([7, 2], np.uint8)),
    }


@pytest.mark.parametrize("inside", ["", "MNIST", "MNIST/raw"])
def test_mnist_is_read_wherever_data_dir_points(mnist, tmp_path, inside):
    """The idx files are found from the folder above, from MNIST and from MNIST/raw."""
    write(tmp_path / "MNIST" / "raw", mnist)
    images = load("mnist", tmp_path / inside, "train")
    assert np.array_equal(images.images[..., 0].numpy(), noise(0, (5, 28, 28)))
    assert images.labels.tolist() == [5, 0, 4, 1, 9]
    assert images.classes == tuple("0123456789")
    assert load("mnist", tmp_path / inside, "test").labels.tolist() == [7, 2]


def test_fashion_mnist_has_its_names(mnist, tmp_path):
    """Fashion-MNIST's label 9 is the ankle boot."""
    write(tmp_path / "FashionMNIST" / "raw", mnist)
    images = load("fashion-mnist", tmp_path, "train")
    assert images.classes[images.labels[4]] == "Ankle boot"


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("train-images-idx3-ubyte", lambda content: content[:-1]),
        ("train-images-idx3-ubyte", lambda content: content + b"\0"),
        ("train-images-idx3-ubyte", lambda content: content[:10]),
        ("train-images-idx3-ubyte", lambda content: b""),
        ("train-images-idx3-ubyte", lambda content: gzip.compress(content)),
        ("train-labels-idx1-ubyte", lambda content: content[:-1]),
        ("train-labels-idx1-ubyte", lambda content: idx(np.zeros(4, np.uint8))),
        ("train-labels-idx1-ubyte", lambda content: idx(np.full(5, 10, np.uint8))),
    ],
    ids=["cut", "long", "header", "empty", "packed", "cut labels", "too few", "no digit"],
)
def test_damaged_idx_file_is_named(mnist, tmp_path, name, damage):
    """A cut or foreign idx file is named, with the way out."""
    write(tmp_path / "MNIST" / "raw", mnist | {name: damage(mnist[name])})
    with pytest.raises(DataError, match=rf"raw/{name} .*; delete"):
        load("mnist", tmp_path, "train")


@pytest.fixture
def svhn(monkeypatch):
    """Small SVHN files, name -> content, with their checksums in torchvision's table."""
    files, table = {}, {}
    for split, labels in {"train": [10, 1, 9], "test": [2, 10]}.items():
        stream, name = io.BytesIO(), f"{split}_32x32.mat"
        images = noise(len(labels), (len(labels), 32, 32, 3)).transpose(1, 2, 3, 0)
        savemat(stream, {"X": images, "y": np.array(labels, np.uint8)[:, None]})
        files[name] = stream.getvalue()
        table[split] = [f"http://nowhere.invalid/{name}", name, md5(files[name])]
    monkeypatch.setattr(datasets.SVHN, "split_list", table)
    return files


def test_svhn_puts_digit_zero_at_label_zero(svhn, tmp_path):
    """The file calls the digit 0 ten; here its label is 0, and images are upright."""
    write(tmp_path, svhn)
    images = load("svhn", tmp_path, "train")
    assert images.labels.tolist() == [0, 1, 9]
    assert np.array_equal(images.images.numpy(), noise(3, (3, 32, 32, 3)))
    (tmp_path / "test_32x32.mat").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"test_32x32\.mat is damaged"):
        load("svhn", tmp_path, "test")


@pytest.fixture
def site(tmp_path):
    """A folder served by a local server: (folder, address, requested paths)."""
    folder, asked = tmp_path / "site", []
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/", asked
        server.shutdown()
        thread.join()


def tar_of(files: dict[str, bytes], **fields: object) -> bytes:
    """Return a .tar.gz of files, name -> content, whose members have these fields."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def test_cifar10_is_downloaded_once(cifar10, site, tmp_path, monkeypatch):
    """Missing CIFAR-10 is fetched and unpacked; then nothing is fetched again."""
    folder, address, asked = site
    content = tar_of({f"cifar-10-batches-py/{name}": cifar10[name] for name in cifar10})
    (folder / "cifar-10-python.tar.gz").write_bytes(content)
    monkeypatch.setattr(datasets.CIFAR10, "url", address + "cifar-10-python.tar.gz")
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(content))
    data_dir = tmp_path / "data"
    assert len(load("cifar10", data_dir, "train").labels) == 10
    assert len(load("cifar10", data_dir, "test").labels) == 2
    assert len(asked) == 1
    (data_dir / "cifar-10-batches-py" / "data_batch_2").unlink()
    assert len(load("cifar10", data_dir, "train").labels) == 10
    assert len(asked) == 1


def test_only_missing_mnist_files_are_downloaded(mnist, site, tmp_path, monkeypatch):
    """Of four files, one is there and one lies packed: the other two are fetched."""
    folder, address, asked = site
    packed = {f"{name}.gz": gzip.compress(content) for name, content in mnist.items()}
    write(folder, packed)
    monkeypatch.setattr(datasets.MNIST, "mirrors", [address + "gone/", address])
    monkeypatch.setattr(
        datasets.MNIST, "resources", [(name, md5(content)) for name, content in packed.items()]
    )
    raw = write(
        tmp_path / "data" / "MNIST" / "raw",
        {"train-images-idx3-ubyte": mnist["train-images-idx3-ubyte"]},
    )
    write(raw, {"t10k-labels-idx1-ubyte.gz": packed["t10k-labels-idx1-ubyte.gz"]})
    assert load("mnist", tmp_path / "data", "train").labels.tolist() == [5, 0, 4, 1, 9]
    fetched = {path for path in asked if "gone" not in path}
    assert fetched == {"/train-labels-idx1-ubyte.gz", "/t10k-images-idx3-ubyte.gz"}


def test_svhn_is_downloaded(svhn, site, tmp_path, monkeypatch):
    """Missing SVHN files are fetched from the addresses of the table."""
    folder, address, _ = site
    write(folder, svhn)
    table = {
        split: [address + name, name, md5]
        for split, (_, name, md5) in datasets.SVHN.split_list.items()
    }
    monkeypatch.setattr(datasets.SVHN, "split_list", table)
    assert load("svhn", tmp_path / "data", "test").labels.tolist() == [2, 0]


def test_every_layout_knows_its_torchvision_class():
    """Each entry names a class of torchvision and files below a root."""
    for dataset, published in PUBLISHED.items():
        assert published.files(Path("data")), dataset
        assert published.roots(Path("data"), dataset)[0] == Path("data")


@pytest.mark.realdata
def test_real_mnist(real_data):
    """Real MNIST has its published counts and its normalisation."""
    train, test = (load("mnist", real_data, split) for split in ("train", "test"))
    assert train.counts() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert test.counts() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    pixels = train.images.double() / 255
    assert float(pixels.mean()) == pytest.approx(train.mean[0], abs=1e-4)
    assert float(pixels.std()) == pytest.approx(train.std[0], abs=1e-4)
