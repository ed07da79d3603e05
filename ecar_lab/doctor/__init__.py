"""`ecar doctor`: is this installation in order, and what went wrong in this training or model?

May import everything up to ``training``, inside functions where a broken installation may lack it.
Begin with ``findings.py``; ``installation.py`` and ``run.py`` find, ``diagnose.py`` has the names.
"""
