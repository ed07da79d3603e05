"""What E-CAR is measured against: thin models on well-kept parts, trained and sampled alike.

All are generators of latents in the sense of ``ecar_lab.generator``: the same trainer, tokenizer,
data, optimizer, pipeline and evaluation serve them and E-CAR.

May import the method, up to ``pipeline``; nothing of the method knows a baseline.
Begin with ``dit.py``, then ``base.py``, which samples it; ``build.py`` lists all by name.
"""

from ecar_lab.baselines.build import ARCHITECTURES, build, matched_shape
from ecar_lab.baselines.code_ar import CodeAR
from ecar_lab.baselines.dit import DiT
from ecar_lab.baselines.pipeline import BaselinePipeline, load_pipeline, make_pipeline
from ecar_lab.baselines.token_ar import TokenAR, token_ar_flops

__all__ = [
    "ARCHITECTURES",
    "BaselinePipeline",
    "CodeAR",
    "DiT",
    "TokenAR",
    "build",
    "load_pipeline",
    "make_pipeline",
    "matched_shape",
    "token_ar_flops",
]
