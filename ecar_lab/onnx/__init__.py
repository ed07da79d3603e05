"""E-CAR outside PyTorch: its networks as ONNX graphs, and the sampling loop in numpy.

May import everything up to ``baselines``; the loop, ``runtime.py``, and what it stands on
(``random.py``, ``exported.py``) import no torch, for the same lines are to run where there is none.
Begin with ``runtime.py``; ``export.py`` writes the folder that it reads.
"""
