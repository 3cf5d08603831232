"""Every choice that decides a run, and where the choices come from."""

from lmsm_cli.config.choices import MOST_EPOCHS as MOST_EPOCHS
from lmsm_cli.config.config import Config as Config
from lmsm_cli.config.config import derived_defaults as derived_defaults
from lmsm_cli.config.config import dump as dump
from lmsm_cli.config.config import dump_yaml as dump_yaml
from lmsm_cli.config.config import flag_name as flag_name
from lmsm_cli.config.config import help_text as help_text
from lmsm_cli.config.config import panels as panels
from lmsm_cli.config.config import type_of as type_of
from lmsm_cli.config.keys import ADDED_KEYS as ADDED_KEYS
from lmsm_cli.config.keys import CHANGEABLE_KEYS as CHANGEABLE_KEYS
from lmsm_cli.config.keys import DATA_KEYS as DATA_KEYS
from lmsm_cli.config.keys import DEPENDENT_OPTIONS as DEPENDENT_OPTIONS
from lmsm_cli.config.keys import LIST_KEYS as LIST_KEYS
from lmsm_cli.config.keys import RUNTIME_KEYS as RUNTIME_KEYS
