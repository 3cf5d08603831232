"""Every choice that decides a run, and where the choices come from."""

from lmsm_cli.config.config import (
    ADDED_KEYS,
    DATA_KEYS,
    DEPENDENT_OPTIONS,
    MOST_EPOCHS,
    RUNTIME_KEYS,
    Config,
    derived_defaults,
    dump,
    dump_yaml,
    flag_name,
    help_text,
    type_of,
)

__all__ = [
    "ADDED_KEYS",
    "DATA_KEYS",
    "DEPENDENT_OPTIONS",
    "MOST_EPOCHS",
    "RUNTIME_KEYS",
    "Config",
    "derived_defaults",
    "dump",
    "dump_yaml",
    "flag_name",
    "help_text",
    "type_of",
]
