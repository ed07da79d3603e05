"""The live app: pages that show what ecar_lab does, and compute nothing themselves.

One folder per tab, and ``shared`` for what several of them use; a tab imports ``shared`` and
ecar_lab, never another tab. Begin with ``demo.py``, which puts the page together.
"""
