"""The Generate tab: one image comes into being, live, and can be walked through afterwards.

Imports ``apps.shared`` and ecar_lab. Begin with ``tab.py``; ``views.py`` is the table of costs, the
player is ``shared/player.js``.
"""
