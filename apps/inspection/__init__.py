"""The Inspect tab: attention, mask, token maps, and what the KV cache saves.

Imports ``apps.shared`` and ecar_lab. Begin with ``tab.py``; ``runs.py`` keeps the runs that are
open, ``views.py`` is what the page gets of one, ``inspection.js`` shows it.
"""
