"""Pictures of a run: latents as colours, grids and strips of stages, GIFs, the one-page overview.

May import the events of a run, ``tokenizers`` and the ground floor; it looks on and runs no model.
Begin with ``pictures.py``; ``overview.py`` is the figure for documents.
"""
