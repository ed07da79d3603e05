"""Local training runs, side by side: `ecar runs`. Begin with ``records.find_runs``.

What a run folder holds is written by ``ecar_lab.training`` and read here; nothing is trained.
"""
