"""The Live tab: sliders that the image follows while they move.

Imports ``apps.shared`` and ecar_lab. Begin with ``tab.py``; ``runs.py`` makes one image of what is
wished, ``live.js`` asks for the newest wish and never for two at a time.
"""
