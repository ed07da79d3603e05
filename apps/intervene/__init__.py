"""The Intervene tab: a base image, and what becomes of it when something is changed on the way.

Imports ``apps.shared`` and ecar_lab. Begin with ``tab.py``; ``controls.py`` is what can be chosen,
``runs.py`` what is run, ``views.py`` what is shown of it, by ``intervene.js``.
"""
