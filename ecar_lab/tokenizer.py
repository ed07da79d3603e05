"""Where older checkpoints say, in ``model_index.json``, that the class of their tokenizer lives.

It lives in :mod:`ecar_lab.tokenizers`, as new checkpoints say. diffusers wants this module imported
before it loads such a checkpoint, and looks for ``ModelMixin`` beside the class.
"""

from diffusers.models.modeling_utils import ModelMixin

from ecar_lab.tokenizers.makers import AutoencoderTokenizer, ConvTokenizer, IdentityTokenizer

__all__ = ["AutoencoderTokenizer", "ConvTokenizer", "IdentityTokenizer", "ModelMixin"]
