"""Backbones, necks and the classifier: shapes, sizes, normalisation, pretrained files."""

import os
import re

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from lmsm_cli.errors import ArgumentError, CheckpointError, LmsmError
from lmsm_cli.models.backbones import BACKBONES, Block, first_non_finite
from lmsm_cli.models.classifier import ModelSpec, build_classifier
from lmsm_cli.models.nets import check_model
from lmsm_cli.models.pretrained import check_pretrained

pytestmark = pytest.mark.libraries

CLASSES = tuple("abcdefghij")


def build(model="resnet18", neck="bn", loss="softmax", channels=3, pretrained=None, **head):
    """Return a small-image classifier of ten classes."""
    torch.manual_seed(0)
    return build_classifier(
        ModelSpec(model, neck, loss, **head),
        classes=CLASSES,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        class_counts=torch.arange(1, 11),
        pretrained=pretrained,
    )


@pytest.mark.parametrize("model", BACKBONES)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_model_scores_images(model, channels):
    """Every backbone takes grey and colour images and gives one score a class."""
    images = torch.randint(256, (2, channels, 32, 32), dtype=torch.uint8)
    assert build(model, "bn", channels=channels).eval()(images).shape == (2, 10)


@pytest.mark.parametrize(
    ("model", "neck", "parameters"),
    [
        # seed's: 11,168,832 (ResNet-18, 3x3 stem, no fc) + 512 x 64 + 64 + 64 x 10
        ("resnet18", "relu", 11_168_832 + 512 * 64 + 64 + 640),
        ("resnet18-cifar", "none", 11_168_832 + 5120),
        # He et al. 2016, table 6: 0.46 million for ResNet-32
        ("resnet32", "none", 463_504 + 640),
        # torchvision's VGG-16 features hold 14,714,688
        ("vgg16", "relu", 14_714_688 + 512 * 128 + 128 + 128 * 32 + 32 + 320),
    ],
)
def test_parameter_counts_are_the_published_ones(model, neck, parameters):
    """The nets are the ones that they are named after, to the last weight."""
    assert sum(p.numel() for p in build(model, neck).parameters()) == parameters


def test_ldam_drws_net_is_had_on_request():
    """Its ResNet-32 has 464,154 parameters for ten classes, and a last layer that starts so."""
    model = build("resnet32", "none", head_bias=True, head_init="kaiming")
    assert sum(p.numel() for p in model.parameters()) == 464_154
    # LDAM-DRW: kaiming_normal_ of an nn.Linear(64, 10), whose bias stays as torch draws it
    norms = model.head.weight.norm(dim=1)
    assert norms.mean().item() == pytest.approx(2**0.5, rel=0.1)
    assert 0 < model.head.bias.abs().max() <= 1 / 8
    # and for LDAM a normalised layer without a bias, its columns at length 1
    normed = build("resnet32", "none", loss="ldam", head_init="unit")
    assert sum(p.numel() for p in normed.parameters()) == 464_144
    torch.testing.assert_close(normed.head.weight.norm(dim=1), torch.ones(10))


def test_resnet18_is_the_seeds():
    """3x3 stem of stride 1 without bias, max-pool kept; Linear-ReLU-Dropout before the head."""
    model = build("resnet18", "relu")
    stem = model.backbone.conv1
    assert (stem.kernel_size, stem.stride, stem.bias) == ((3, 3), (1, 1), None)
    assert isinstance(model.backbone.maxpool, nn.MaxPool2d)
    assert [type(layer) for layer in model.neck] == [nn.Linear, nn.ReLU, nn.Dropout]
    assert model.neck[2].p == 0.25


def test_option_a_shortcuts_have_no_parameters():
    """A block that halves the image subsamples its input and pads the channels with zeros."""
    block = Block(16, 32, 2).eval()
    nn.init.zeros_(block.conv2.weight)  # leaves the shortcut alone
    x = torch.rand(1, 16, 8, 8)
    out = block(x)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert out[:, :8].abs().sum() == out[:, 24:].abs().sum() == 0


def test_the_classifier_normalises():
    """A uint8 image reaches the backbone as (image / 255 - mean) / std."""
    model = build()
    seen = []
    model.backbone = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 512))
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    image = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    model.eval()(image)
    assert torch.allclose(seen[0], torch.full((1, 3, 32, 32), (1 - 0.5) / 0.25))


def test_predict_gives_the_highest_score():
    """`predict` is the arg-max of the margin-free scores, without a gradient."""
    model = build(loss="lsoftmax:margin=4").eval()
    images = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(model.predict(images), model(images).argmax(1))
    assert not model.predict(images).requires_grad


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            torch.rand(2, 3, 32, 32),
            "images are of type torch.float32: expected a torch tensor of uint8",
        ),
        (np.zeros((2, 3, 32, 32), np.uint8), "images are of type ndarray: expected a torch tensor"),
        (
            torch.zeros(3, 32, 32, dtype=torch.uint8),
            "images have shape (3, 32, 32): expected (N, 3, H, W)",
        ),
        (
            torch.zeros(2, 32, 32, 3, dtype=torch.uint8),
            "images have shape (2, 32, 32, 3): expected (N, 3, H, W)",
        ),
        (
            torch.zeros(2, 1, 32, 32, dtype=torch.uint8),
            "images have shape (2, 1, 32, 32): expected (N, 3, H, W)",
        ),
        (torch.rand(2, 1, 16, 16), "images are of type torch.float32: expected"),
    ],
)
def test_what_are_no_images_is_refused(images, message):
    """Floats from 0 to 1, or channels at the end, would give answers, and wrong ones.

    So would pixels as numerous as the features of the net, which are 256.
    """
    model = build("paper-mnist").eval()
    assert model.head.weight.shape[1] == 256
    for call in (model, model.predict, model.embed):
        with pytest.raises(ArgumentError, match=re.escape(message)):
            call(images)


def test_features_that_are_known_stand_in_for_images():
    """Of features (N, D, 1, 1) `embed` makes (N, D); a call takes none, only images."""
    model = build("paper-mnist").eval()
    features = torch.rand(2, 256, 1, 1)
    assert torch.equal(model.embed(features), features[:, :, 0, 0])
    with pytest.raises(ArgumentError, match="images are of type"):
        model(features)


@pytest.mark.parametrize(
    ("neck", "can_die"), [("relu", True), ("prelu", False), ("bn", False), ("linear", False)]
)
def test_only_the_relu_neck_can_die(neck, can_die):
    """Far below its threshold a ReLU neck passes no gradient; every other neck still does."""
    model = build("paper-mnist", neck).train()
    layers = model.neck
    with torch.no_grad():
        for parameter in layers[0].parameters():
            parameter.zero_()
        if layers[0].bias is not None:
            layers[0].bias.fill_(-5.0)
    x = torch.randn(8, layers[0].in_features, requires_grad=True)
    layers(x).sum().backward()
    grads = layers[0].bias.grad if layers[0].bias is not None else layers[1].bias.grad
    assert bool((grads == 0).all()) is can_die


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "vgg16", "vgg16_bn"])
def test_pretrained_file_fills_the_backbone(tmp_path, name):
    """A torchvision state dict from a file is found in the backbone; adapted layers stay fresh."""
    torch.manual_seed(1)
    theirs = getattr(torchvision.models, name)(weights=None)
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    model = build(name, "relu", pretrained=str(tmp_path / "w.pth"))
    if name == "resnet18":
        assert torch.equal(model.backbone.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight)
        assert model.backbone.conv1.weight.shape == (64, 3, 3, 3)
    else:
        assert torch.equal(model.backbone[0][0].weight, theirs.features[0].weight)


def test_imagenet_weights_come_by_download(tmp_path, monkeypatch):
    """`--pretrained imagenet` takes torchvision's file, here from its cache folder."""
    import hashlib

    from torchvision.models import ResNet18_Weights

    torch.manual_seed(1)
    theirs = torchvision.models.resnet18(weights=None)
    file = tmp_path / "hub" / "checkpoints" / ResNet18_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[1]
    file.parent.mkdir(parents=True)
    torch.save(theirs.state_dict(), file)
    assert hashlib.sha256(file.read_bytes()).hexdigest()  # a cached file is trusted by torch.hub
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    model = build("resnet18", "relu", pretrained="imagenet")
    assert torch.equal(model.backbone.layer1[0].conv1.weight, theirs.layer1[0].conv1.weight)


def test_bad_pretrained_files_are_refused(tmp_path):
    """A missing or damaged file, another net's weights and an unsuitable model are explained."""
    torch.save(
        torchvision.models.vgg16(weights=None).features[:2].state_dict(), tmp_path / "vgg.pth"
    )
    (tmp_path / "text.pth").write_text("hello")
    torch.save({"a": 1}, tmp_path / "numbers.pth")
    for name, message in [
        ("vgg.pth", "does not fit resnet18"),
        ("text.pth", r"no state dict: torch\.save.* writes one$"),
        ("numbers.pth", "no state dict of tensors"),
    ]:
        with pytest.raises(LmsmError, match=message):
            build(pretrained=str(tmp_path / name))
    with pytest.raises(LmsmError, match="'resnet32' has no pretrained weights"):
        check_pretrained("resnet32", "imagenet")
    with pytest.raises(LmsmError, match=r"none\.pth does not exist"):
        check_pretrained("resnet18", str(tmp_path / "none.pth"))
    with pytest.raises(LmsmError, match="is a folder, no file"):
        check_pretrained("resnet18", str(tmp_path))


class Bomb:
    """An object whose unpickling makes a folder."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_nothing_in_a_pretrained_file_is_executed(tmp_path):
    """A pickled object among the weights is refused, and its code does not run."""
    torch.save({"conv1.weight": Bomb(tmp_path / "boom")}, tmp_path / "bomb.pth")
    with pytest.raises(LmsmError, match=r"bomb\.pth is no state dict"):
        build(pretrained=str(tmp_path / "bomb.pth"))
    assert not (tmp_path / "boom").exists()
    torch.load(tmp_path / "bomb.pth", weights_only=False)  # the bomb is real
    assert (tmp_path / "boom").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["layer1.0.conv1.weight", "layer3.1.bn2.running_var"])
def test_pretrained_weights_that_are_not_finite_are_refused(tmp_path, name, value):
    """One such number is a checkpoint that cannot be used, exit code 4, by the tensor's name."""
    state = torchvision.models.resnet18(weights=None).state_dict()
    state[name].view(-1)[-1] = value
    torch.save(state, tmp_path / "damaged.pth")
    with pytest.raises(CheckpointError, match=f"not finite.*'{name}'") as caught:
        build(pretrained=str(tmp_path / "damaged.pth"))
    assert caught.value.exit_code == 4


def test_the_first_tensor_that_is_not_finite_is_named():
    """Whole numbers and what is no tensor are passed over; a finite state gives None."""
    state = {"steps": torch.tensor(3), "note": "text", "a": torch.ones(2), "b": torch.ones(0)}
    assert first_non_finite(state) is None
    damaged = {"c": torch.tensor([1.0, float("inf")]).bfloat16(), "d": torch.tensor(float("nan"))}
    assert first_non_finite(state | damaged) == "c"


def test_too_small_images_are_refused():
    """VGG halves five times: an 8-pixel digit is an error before the first step."""
    with pytest.raises(LmsmError, match="vgg16 needs images of at least 32 pixels, these have 8"):
        check_model("vgg16", channels=1, image_size=8)


def test_vgg16_starts_with_features_of_one_size():
    """Without BatchNorm no layer shrinks or blows up what it gets; nor does the hidden layer."""
    torch.manual_seed(0)
    net = build("vgg16", "relu").backbone.eval()
    outputs = []
    for layer in net.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            layer.register_forward_hook(lambda *given: outputs.append(given[2].std().item()))
    with torch.no_grad():
        net(torch.randn(64, 3, 32, 32))
    assert len(outputs) == 14
    assert all(0.6 < spread < 3 for spread in outputs), outputs
