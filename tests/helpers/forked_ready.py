"""What the server of forked commands does once for all of them. It imports this module after all others.

Hydra looks for plugins and its parsers learn their grammars, and what is there by then no collection of garbage looks at.
"""

import copy
import gc
import os

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from helpers.forked import TESTS
from vggtq.config.compose import compose
from vggtq.config.validate import validated

WITHOUT_PLUGINS = copy.deepcopy(ConfigStore.instance().repo)

Plugins.instance()
validated(compose(["scheme=int4_group"]))
gc.collect()
gc.freeze()

# Commands know nothing of the tests' folder, which the server needed.
os.environ["PYTHONPATH"] = os.environ["PYTHONPATH"].removeprefix(TESTS).removeprefix(os.pathsep)
if not os.environ["PYTHONPATH"]:
    del os.environ["PYTHONPATH"]
