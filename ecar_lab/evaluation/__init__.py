"""How good images are: distances to real ones, the small classifier that measures, `ecar evaluate`.

May import everything up to ``baselines`` and the pipelines; ``metrics.py`` knows tensors only.
Begin with ``metrics.py``; ``evaluate.py`` is the whole measurement, from a checkpoint to its JSON.
"""
