"""What stands around the tabs: head, the strip that names where a run is, glossary, tour, and the
mode for a talk.

Imports ``apps.shared`` and ecar_lab. Begin with ``shell.py``, which puts all of it on the page;
``strip.py`` says what the strip knows of a model.
"""
