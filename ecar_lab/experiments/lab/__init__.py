"""What experiments share: the lab that trains and remembers, sizes, scores, figures, studies.

May import everything up to ``doctor``, and no experiment.
Begin with ``lab.py``; ``figures.py`` is how every figure of the kit looks.
"""
