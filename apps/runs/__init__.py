"""The Runs tab: a visitor's finished runs, two of them side by side, recipes in, files out.

Imports ``apps.shared`` and ecar_lab. Begin with ``tab.py``; ``exports.py`` writes the files,
``differences.py`` says what sets two runs apart, ``views.py`` is the HTML.
"""
