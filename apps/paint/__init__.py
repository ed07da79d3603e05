"""The Paint tab: coloured cells take the place of a stage, and later stages complete them.

Imports ``apps.shared`` and ecar_lab. Begin with ``tab.py``; ``runs.py`` makes a latent of the
painting and lets the model go on, ``paint.js`` is canvas and results.
"""
