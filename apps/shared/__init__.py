"""What the tabs have in common: settings, runs and their files, recipes, the programs' interface.

Imports ecar_lab and nothing of a tab. Begin with ``settings.py`` (what is asked for), then
``stream.py`` (what is shown of it) and ``studio.py`` (who runs it).
"""
