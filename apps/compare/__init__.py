"""The Compare tab: E-CAR beside a DiT, one class and seed, along an axis of time or of work.

Imports ``apps.shared`` and ecar_lab. Begin with ``tab.py``; ``runs.py`` runs and times the two,
``views.py`` is the table, ``compare.js`` the lanes.
"""
