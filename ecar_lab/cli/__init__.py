"""The command `ecar`: ``main.py`` finds the command that was typed, one file each runs it.

May import everything of the kit, but late: ``main.py`` must answer before torch is there.
Begin with ``main.py``, then ``sample.py``; ``switches.py`` reads what was typed.
"""
