"""The Tokenizer tab: what becomes of a picture on its way through the latent and back.

Imports ``apps.shared`` and ecar_lab. Begin with ``tab.py``; ``uploads.py`` opens a visitor's
picture, ``views.py`` is what is shown of one, by ``tokenizer.js``.
"""
