"""The All classes tab: one image of every class from one seed, growing side by side.

Imports ``apps.shared`` and ecar_lab. Begin with ``tab.py``; ``runs.py`` makes the images in one
batch, ``overview.js`` shows them grow.
"""
