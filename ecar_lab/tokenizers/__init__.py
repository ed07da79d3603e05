"""Images to latents and back: one small protocol, three makers of it, and what they do to an image.

May import ``errors`` and ``files``, nothing else of the kit.
Begin with ``base.py``, the protocol; then ``makers.py``, which puts ``networks.py`` to use.
"""
