"""Right solutions of the exercises, written in other ways than the kit's; one module per notebook.

``RIGHT``: exercise -> [attempt, attempt, attempt].
"""
