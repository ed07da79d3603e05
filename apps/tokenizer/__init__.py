"""The Tokenizer tab: what becomes of a picture on its way through the latent and back.

Imports ``apps.shared`` and ecar_lab. Begin with ``tab.py``; ``pictures.py`` opens uploads,
``views.py`` is what is shown of a picture, by ``tokenizer.js``.
"""
