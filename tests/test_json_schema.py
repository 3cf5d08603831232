"""The schema of configs, held against Config: what one takes the other takes, key by key."""

import inspect
import re

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmsm_cli.config import Config, dump
from lmsm_cli.config.json_schema import config_schema
from lmsm_cli.config.resolve import Layer, preset_names, resolve
from lmsm_cli.config.yaml import read_mapping
from lmsm_cli.errors import LmsmError
from lmsm_cli.losses.head import LinearHead
from lmsm_cli.losses.options import options_of
from lmsm_cli.losses.registry import KNOWN, check_loss, head_class
from tests.conftest import words

SCHEMA = config_schema()
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)


def schema_takes(values):
    """Return whether the schema accepts the keys; a tuple is YAML's list."""
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
    return VALIDATOR.is_valid(plain)


def config_takes(values):
    """Return whether `lmsm train --config` accepts the keys, each for itself."""
    try:
        resolve([Layer(values, {key: key for key in values})], check_loss)
    except LmsmError as error:
        together = (
            "no effect|excludes|needs an imb|needs a list|leaves none|do not rise|after the last"
        )
        return all(re.search(together, line) for line in str(error).splitlines())
    return True


def test_the_schema_is_one():
    """It is a valid draft-07 schema that takes no unknown key."""
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert SCHEMA["additionalProperties"] is False
    assert SCHEMA["properties"].keys() == Config.model_fields.keys() | {"margin"}


def words_of(schema):
    """Return the words that the subschemas of a schema use."""
    if isinstance(schema, list):
        return set().union(*map(words_of, schema))
    if not isinstance(schema, dict):
        return set()
    below = [v for k, v in schema.items() if k in ("anyOf", "items")]
    return schema.keys() | words_of(below)


@pytest.mark.parametrize("key", SCHEMA["properties"])
def test_bounds_are_in_words_that_editors_know(key):
    """A word that is not of JSON Schema, such as pydantic's `ge`, checks nothing."""
    known = jsonschema.Draft7Validator.META_SCHEMA["properties"].keys()
    assert words_of(SCHEMA["properties"][key]) <= known


def test_every_key_has_a_description_and_its_default():
    """An editor can show what each key means and what it is where it is left out."""
    for key, described in SCHEMA["properties"].items():
        assert described["description"], key
        if key != "margin":
            default = dump(Config())[key]
            assert described["default"] == default, key
            assert schema_takes({key: default}), key


def test_the_names_of_the_losses_are_those_of_the_heads():
    """What losses/registry.py says of a loss without torch is what its class is."""
    for name, known in KNOWN.items():
        head = head_class(name)
        found, takes_bias = options_of(head), issubclass(head, LinearHead)
        options = {key: option.default for key, option in found.items()}
        assert list(known.options) == list(options), f"write in LOSSES: {options}"
        for key, value in options.items():  # those of None are in test_registry.py
            assert value is None or known.options[key] == value, f"write in LOSSES: {name}, {key}"
        assert known.takes_bias == takes_bias, f"write in LOSSES: {name}, takes_bias={takes_bias}"
        takes_margins = "class_margins" in inspect.signature(head).parameters
        assert known.takes_class_margins == takes_margins, f"write in LOSSES: {name}"
    assert SCHEMA["properties"]["loss"]["anyOf"][0]["enum"] == list(KNOWN)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_keeps_to_the_schema(name):
    """Each shipped preset validates."""
    VALIDATOR.validate(dict(Layer.of_preset(name).values))


def test_a_run_s_config_keeps_to_the_schema():
    """config.yaml, which holds every key, validates."""
    VALIDATOR.validate(dump(resolve([Layer.of_preset("digits")]).config))


@pytest.mark.parametrize(
    "choice",
    [
        *words(
            "lr=1e-4 lr=1 epochs=3 epochs=50000 momentum=0 factor=0.01 factor=1.0 "
            "milestones=[60,80] milestones=60,80 milestones=[] loss=vs loss=lsoftmax:margin=4 "
            "loss=lsoftmax:margin=auto,lambda_min=5 loss=large-margin-in-softmax:strength=0.5 "
            "margin=4 margin=2.5 margin=auto margin=tail device=cuda:1 device=cpu pretrained=null "
            "pretrained=imagenet cuda_graph=false seed=4294967295 data_dir=here/there "
            "model=vgg16_bn neck=none weight_decay=5e-4 class_weights=cat=2,dog=0.5 "
            "class_weights=auto class_weights=none class_weights=null "
            "freeze=backbone freeze=features freeze=3 freeze=null"
        ),
        "loss='vs:gamma=0.2, tau=1'",
        "class_weights={1: 2}",
        *words("group_pattern='(.*)_' group_pattern='(?:a|b)/(?P<who>.)' group_pattern=null"),
    ],
)
def test_both_take_good_values(tmp_path, choice):
    """A good line is accepted by the schema and by Config."""
    values = read_choice(tmp_path, choice)
    assert schema_takes(values)
    assert config_takes(values)


@pytest.mark.parametrize(
    "choice",
    [
        *words(
            "modle=vgg16 model=vgg17 dataset=cifar lr=fast lr=0 lr=-1e-4 lr=true lr=null "
            "epochs=0 epochs=2.5 epochs=many epochs=1000001 epochs=[3] batch_size=1 momentum=1 "
            "validation=1 factor=0 factor=1.5 milestones=[0] milestones=[a] milestones=60;80 "
            "milestones=60 loss=lsoftmx loss=lsoftmax:mragin=4 loss=softmax:margin=4 loss=3 "
            "loss='lsoftmax:' loss=lsoftmax:margin loss=lsoftmax:margin= "
            "loss=balanced-softmax:tau=1 margin=wide margin=true margin=-1 margin=1001 "
            "device=gpu device=cuda:x pretrained=3 cuda_graph=maybe compile=1 follow_links=0 "
            "head_bias=1.0 skip_unreadable=no seed=-1 seed=4294967296 neck=null data_dir=3 "
            "reweight_beta=1 class_weights=cat class_weights=2 class_weights=cat=,dog=1 "
            "class_weights=[1] class_margins=auto freeze=all freeze=0"
        ),
        "class_weights={1: 0}",
        "class_margins={1: x}",
        *words("group_pattern=adam group_pattern='(?:a)' folds=1 fold=-1 test_share=0"),
    ],
)
def test_both_refuse_bad_values(tmp_path, choice):
    """A bad line is refused by the schema and by Config."""
    values = read_choice(tmp_path, choice)
    assert not schema_takes(values)
    assert not config_takes(values)


def read_choice(folder, choice):
    """Return the key and value of `key=value` as a config file with that line is read.

    A margin has a loss that takes it beside it.
    """
    (folder / "line.yaml").write_text(choice.replace("=", ": ", 1) + "\n")
    values = {key: entry.value for key, entry in read_mapping(folder / "line.yaml").items()}
    return {"loss": "lsoftmax", **values} if "margin" in values else values


NAMES = sorted(
    {name for described in SCHEMA["properties"].values() for name in described.get("enum", ())}
)
VALUES = st.one_of(
    st.booleans(),
    st.none(),
    st.integers(-3, 2**33),
    st.floats(-2, 2000, allow_nan=False, allow_subnormal=False),
    st.sampled_from([*NAMES, "cuda:0", "1,2", "x"]),
    st.lists(st.integers(-1, 300), max_size=3).map(tuple),
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(Config.model_fields)), VALUES)
def test_the_schema_agrees_with_config(key, value):
    """Whatever a key is given: the schema takes it just where Config does.

    Of texts in place of numbers, of which Config takes some, the schema takes none.
    """
    is_lax = isinstance(value, str)
    if schema_takes({key: value}):
        assert config_takes({key: value})
    elif not is_lax:
        assert not config_takes({key: value})
