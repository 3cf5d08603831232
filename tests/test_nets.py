"""Nets of torchvision and timm by name: shapes, sizes, channels, and weights from their files."""

import re
import sys

import pytest
import torch
from torch import nn
from torchvision import models

from lmsm_cli.config.nets import NETS, OWN_NETS, TORCHVISION_NETS, check_net_name
from lmsm_cli.errors import CheckpointError, LmsmError
from lmsm_cli.models.classifier import ModelSpec, build_classifier, head_width
from lmsm_cli.models.nets import build_backbone, check_model, parameter_count
from lmsm_cli.models.pretrained import check_pretrained, load_pretrained, normalisation_of

pytestmark = pytest.mark.libraries

timm = pytest.importorskip("timm")

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def image(channels: int = 3, size: int = 32) -> torch.Tensor:
    """Return two drawn images as a backbone takes them."""
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))


def built(model: str, channels: int = 3, size: int = 32) -> nn.Module:
    """Return a net in eval mode."""
    torch.manual_seed(0)
    return build_backbone(model, channels, size).module.eval()


# The widths that the papers give; of the classifiers that keep a hidden layer, its width.
WIDTHS = {
    "resnet50": 2048,
    "torchvision:resnet18": 512,
    "convnext_tiny": 768,
    "vit_b_16": 768,
    "efficientnet_b0": 1280,
    "mobilenet_v3_small": 1024,
    "densenet121": 1024,
    "squeezenet1_1": 512,
    "swin_t": 768,
    "shufflenet_v2_x0_5": 1024,
    "regnet_x_400mf": 400,
    "vgg11": 4096,
    "timm:convnext_atto": 320,
    "timm:mobilenetv3_small_050": 1024,
    "timm:vit_tiny_patch16_224": 192,
    "timm:resnet18.a1_in1k": 512,
}


@pytest.mark.parametrize("model", WIDTHS)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_width_of_a_net_is_read_from_its_last_layer(model, channels):
    """Every net takes grey and colour images, and its head has as many columns as the net gives."""
    check_model(model, channels=channels, image_size=64)
    spec = ModelSpec(model, "none", "softmax", image_size=64)
    assert head_width(spec, channels) == WIDTHS[model]


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        # torchvision's documentation, less the last layer's 1000 x (width + 1)
        ("resnet50", 25_557_032 - 1000 * 2049),
        ("torchvision:resnet18", 11_689_512 - 1000 * 513),
        ("mobilenet_v3_small", 2_542_856 - 1000 * 1025),
        # GoogLeNet's 6.6 million are without the auxiliary classifiers
        ("googlenet", 6_624_904 - 1000 * 1025),
    ],
)
def test_a_net_has_the_published_number_of_weights(model, parameters):
    """Without its last layer it is the very net, to the last weight."""
    with torch.device("meta"):
        assert parameter_count(build_backbone(model, 3, 64).module) == parameters


def test_the_plain_net_of_torchvision_is_had_by_its_library():
    """`resnet18` stays the seed's with a 3x3 stem; `torchvision:resnet18` has the 7x7 one."""
    assert built("resnet18").conv1.kernel_size == (3, 3)
    assert built("torchvision:resnet18").conv1.kernel_size == (7, 7)


@pytest.mark.parametrize("model", ["torchvision:resnet18", "squeezenet1_1", "mobilenet_v3_small"])
def test_the_features_are_what_the_last_layer_was_given(model):
    """In eval mode they are the input of the layer that torchvision's own net ends with."""
    ours = built(model, size=64)
    theirs = models.get_model(model.removeprefix("torchvision:"), weights=None).eval()
    theirs.load_state_dict(ours.state_dict(), strict=False)
    last = [one for one in theirs.modules() if isinstance(one, nn.Linear | nn.Conv2d)][-1]
    seen = []
    last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        features = ours(image(size=64))
        theirs(image(size=64))
    expected = seen[0] if seen[0].ndim == 2 else seen[0].relu().mean((2, 3))  # SqueezeNet's
    torch.testing.assert_close(features, expected)


@pytest.mark.parametrize("model", ["torchvision:resnet18", "googlenet", "vit_b_32"])
def test_a_grey_image_is_taken_as_one_that_is_grey_in_all_channels(model):
    """The first convolution has the sum of the colours' weights."""
    grey = built(model, 1, 64)
    colour = built(model, 3, 64)  # from the same draws
    with torch.no_grad():
        torch.testing.assert_close(
            grey(image(1, 64)), colour(image(1, 64).expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize(
    ("model", "size", "nearest"),
    [("vit_b_16", 70, 64), ("vit_b_32", 70, 64), ("alexnet", 32, 64), ("timm:test_vit", 70, 64)],
)
def test_a_size_that_a_net_cannot_take_is_refused_with_a_near_one(model, size, nearest):
    """Before any data is read, and the size that is named is taken."""
    with pytest.raises(LmsmError, match=rf"{model} takes no images of {size} .*it takes {nearest}"):
        check_model(model, channels=3, image_size=size)
    check_model(model, channels=3, image_size=nearest)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet-50", "did you mean 'resnet50'?"),
        ("convnext", "did you mean 'convnext_base', 'convnext_large'"),
        ("timm:hf-hub:x/y", "give torchvision:NAME or timm:NAME"),
        ("timm:../x", "give torchvision:NAME or timm:NAME"),
        ("tensorflow:res-net", "no net of 'tensorflow' has such a name"),
        ("zzz", "known: resnet18, vgg16"),
    ],
)
def test_a_name_that_no_net_has_is_refused(name, message):
    """With the nearest right one; nothing that a hub or a path would be asked for gets through."""
    with pytest.raises(ValueError, match=re.escape(message)):
        check_net_name(name)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("torchvision:resnet19", "did you mean 'resnet18'?"),
        ("timm:convnext_ato", "did you mean 'convnext_atto'?"),
        ("timm:resnet18.a1_in2k", "timm has no weights 'a1_in2k' of resnet18 (did you mean 'a1"),
    ],
)
def test_a_library_is_asked_for_the_names_that_it_has(model, message):
    """What the config cannot know without torch is refused before any data is read."""
    with pytest.raises(LmsmError, match=re.escape(message)):
        check_model(model, channels=3, image_size=64)


def test_without_timm_the_command_that_installs_it_is_told(monkeypatch):
    """A net of timm on a machine without it is a mistake that one command mends: exit code 2."""
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        LmsmError, match=r"a net of timm needs a package.*pip install.*timm"
    ) as told:
        check_model("timm:test_vit", channels=3, image_size=32)
    assert told.value.exit_code == 2


def test_names_of_libraries_and_our_own_do_not_overlap():
    """Each bare name means one net."""
    assert len(set(NETS)) == len(NETS) == len(OWN_NETS) + len(TORCHVISION_NETS)


# --- weights ---


def torchvision_file(path, name, **options):
    """Write a net's state dict as torchvision publishes it; return the net in eval mode."""
    torch.manual_seed(1)
    net = models.get_model(name, weights=None, **options).eval()
    torch.save(net.state_dict(), path)
    return net


def start(model, path, *, channels=3, size=32):
    """Return a net that has started from a file."""
    net = built(model, channels, size)
    load_pretrained(net, model, str(path), channels=channels, image_size=size)
    return net


@pytest.mark.parametrize(
    ("model", "last"),
    [("shufflenet_v2_x0_5", "fc"), ("torchvision:resnet18", "fc"), ("googlenet", "fc")],
)
def test_a_file_of_torchvision_fills_the_whole_net(tmp_path, model, last):
    """What our net says of an image is what theirs gives its last layer; extra tensors are left."""
    name = model.removeprefix("torchvision:")
    auxiliary = {"aux_logits": True, "init_weights": True} if name == "googlenet" else {}
    theirs = torchvision_file(tmp_path / "w.pth", name, **auxiliary)
    setattr(theirs, last, nn.Identity())
    with torch.no_grad():
        expected = theirs(image())
        torch.testing.assert_close(start(model, tmp_path / "w.pth")(image()), expected)


def test_older_files_without_counters_of_batches_are_taken(tmp_path):
    """torchvision's first files have no num_batches_tracked, and DenseNets had other names."""
    torch.manual_seed(1)
    theirs = models.densenet121(weights=None)
    renamed = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)\.", r"\1.\2.", key): value
        for key, value in theirs.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in renamed
    torch.save(renamed, tmp_path / "w.pth")
    ours = start("densenet121", tmp_path / "w.pth").state_dict()
    for key, value in theirs.features.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(ours[f"features.{key}"], value), key


def test_a_grey_net_starts_from_colour_weights(tmp_path):
    """Its answer to a grey image is the colour net's to the image in all channels."""
    theirs = torchvision_file(tmp_path / "w.pth", "shufflenet_v2_x0_5")
    theirs.fc = nn.Identity()
    ours = start("shufflenet_v2_x0_5", tmp_path / "w.pth", channels=1)
    with torch.no_grad():
        expected = theirs(image(1).expand(-1, 3, -1, -1))
        torch.testing.assert_close(ours(image(1)), expected, rtol=1e-4, atol=1e-4)


def small_vit(size):
    """Return a ViT of torchvision in small."""
    torch.manual_seed(1)
    return models.VisionTransformer(size, 16, 2, 2, 32, 64)


def test_positions_of_a_transformer_are_brought_to_the_size_of_the_images(tmp_path, monkeypatch):
    """They are interpolated by torchvision's own function; all else is taken as it is."""
    from torchvision.models.vision_transformer import interpolate_embeddings

    monkeypatch.setattr(
        models.vision_transformer, "vit_b_16", lambda **kw: small_vit(kw.get("image_size", 224))
    )
    monkeypatch.setitem(
        models._api.BUILTIN_MODELS, "vit_b_16", lambda **kw: small_vit(kw.get("image_size", 224))
    )
    theirs = small_vit(224).state_dict()
    torch.save(theirs, tmp_path / "w.pth")
    ours = start("vit_b_16", tmp_path / "w.pth", size=64).state_dict()
    assert ours["encoder.pos_embedding"].shape == (1, 17, 32)
    expected = interpolate_embeddings(64, 16, theirs)
    assert all(torch.equal(ours[key], expected[key]) for key in ours)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(("name", "size"), [("test_vit", 32), ("test_resnet", 32)])
def test_a_file_of_timm_fills_the_whole_net(tmp_path, name, size, suffix):
    """timm fits its own weights to the size and the channels, and so we let it."""
    from safetensors.torch import save_file

    torch.manual_seed(1)
    state = timm.create_model(name).state_dict()
    file = tmp_path / f"w{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, file)
    sized = {"img_size": size} if name == "test_vit" else {}
    theirs = timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay={"file": str(file)}, num_classes=0, **sized
    ).eval()
    with torch.no_grad():
        torch.testing.assert_close(start(f"timm:{name}", file, size=size)(image()), theirs(image()))
        grey = start(f"timm:{name}", file, channels=1, size=size)
        assert grey(image(1)).shape == theirs(image()).shape


@pytest.mark.parametrize(
    ("model", "other", "message"),
    [
        (
            "shufflenet_v2_x0_5",
            "shufflenet_v2_x1_0",
            r"first 'conv5.0.weight' of \(1024, 192, 1, 1",
        ),
        ("torchvision:resnet18", "shufflenet_v2_x0_5", "first 'bn1.bias' of .*is not there"),
        ("timm:test_resnet", "shufflenet_v2_x0_5", "does not fit timm:test_resnet"),
    ],
)
def test_weights_of_another_net_are_refused_by_name_and_shape(tmp_path, model, other, message):
    """Nothing is loaded of a file that lacks a tensor, or has one of another shape."""
    torchvision_file(tmp_path / "w.pth", other)
    with pytest.raises(LmsmError, match=message):
        start(model, tmp_path / "w.pth")


def test_timms_weights_that_are_not_finite_are_refused(tmp_path):
    """One such number is a checkpoint that cannot be used, exit code 4."""
    state = timm.create_model("test_resnet").state_dict()
    state["conv1.0.weight"].view(-1)[0] = float("nan")
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"not finite.*'conv1\.0\.weight'"):
        start("timm:test_resnet", tmp_path / "w.pth")


def test_weights_that_timm_does_not_have_are_refused():
    """`imagenet` of a net whose weights nobody published says that a file is the way out."""
    with pytest.raises(LmsmError, match=r"cannot be had: No pretrained weights exist.*file's path"):
        start("timm:convnext_atto_rms", "imagenet")


def test_images_are_normalised_as_the_weights_were_trained():
    """torchvision's and timm's own entries; GoogLeNet's and Inception's are made for 0.5 +- 0.5."""
    assert normalisation_of("resnet50", 3) == IMAGENET
    assert normalisation_of("resnet18", 3) == IMAGENET
    assert normalisation_of("googlenet", 3) == ((0.5,) * 3, (0.5,) * 3)
    cfg = timm.get_pretrained_cfg("vit_tiny_patch16_224")
    assert normalisation_of("timm:vit_tiny_patch16_224", 3) == (cfg.mean, cfg.std)
    assert cfg.mean != IMAGENET[0]
    (mean,), (std,) = normalisation_of("resnet50", 1)
    assert mean == pytest.approx(sum(IMAGENET[0]) / 3)
    assert std == pytest.approx(sum(IMAGENET[1]) / 3)


def test_googlenets_own_normalisation_is_that_of_a_half():
    """torchvision's net with weights brings ImageNet's normalisation to 0.5 +- 0.5 by itself."""
    theirs = models.googlenet(weights=None, init_weights=True, transform_input=True)
    pixels = torch.rand(1, 3, 4, 4)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in IMAGENET)
    brought = theirs._transform_input((pixels - mean) / std)
    torch.testing.assert_close(brought, (pixels - 0.5) / 0.5)


def test_only_nets_with_weights_can_start_from_imagenet():
    """A net of our own that nobody trained on ImageNet says which have such weights."""
    with pytest.raises(LmsmError, match="'resnet32' has no pretrained weights but those of a run"):
        check_pretrained("resnet32", "imagenet")
    check_pretrained("convnext_tiny", "imagenet")


def test_a_classifier_of_a_librarys_net_scores_images():
    """Backbone, neck and head fit together: the neck brings wide features to 512."""
    torch.manual_seed(0)
    model = build_classifier(
        ModelSpec("resnet50", "bn", "softmax", image_size=32),
        classes=("a", "b", "c"),
        mean=(0.5,),
        std=(0.5,),
    ).eval()
    assert model.neck[0].weight.shape == (512, 2048)
    pixels = torch.randint(256, (2, 1, 32, 32), dtype=torch.uint8)
    assert model(pixels).shape == (2, 3)
