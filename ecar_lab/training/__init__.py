"""Training: of tokenizers, of models, of the classifier that measures, of one class more.

May import everything up to ``evaluation``; nothing of the method knows that it is trained here.
Begin with ``model.py``, then ``loop.py``, the trainer, and ``config.py``, every setting of a run.
"""
