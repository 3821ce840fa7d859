"""Stand-in for verl 0.9.1: as there, modules of others are imported while it is."""

import importlib
import os

for name in filter(None, os.getenv("VERL_USE_EXTERNAL_MODULES", "").split(",")):
    importlib.import_module(name)
