"""What generating costs on this machine: FLOPs, seconds and memory, beside other models.

May import everything up to ``baselines`` and the pipelines; it judges no image.
Begin with ``costs.py``, which is `ecar benchmark`; ``timing.py`` holds the clock.
"""
