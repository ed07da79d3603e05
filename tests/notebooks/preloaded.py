"""Imports what notebooks import, for the server that forks for them. The yardstick of utilisation
figures is measured on small matrices there: the usual ones take longer than a short training."""

import pkgutil
from importlib import import_module

import ipywidgets  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import matplotlib_inline.backend_inline  # noqa: F401
import scipy.stats  # noqa: F401
import sklearn.datasets  # noqa: F401
import torchmetrics  # noqa: F401
from IPython.core import interactiveshell  # noqa: F401

import ecar_lab.baselines
import ecar_lab.benchmark.caching
import ecar_lab.doctor.run
import ecar_lab.experiments.continuous_vs_quantized
import ecar_lab.pipeline
import ecar_lab.training.model
import ecar_lab.training.tokenizer  # noqa: F401
from ecar_lab.machine import matmul_rate
from ecar_lab.teaching import check, explore, own  # noqa: F401
from tests.thrift import QUICK_RATE

for package in (check, explore):
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        import_module(module.name)

matmul_rate.__defaults__ = QUICK_RATE
