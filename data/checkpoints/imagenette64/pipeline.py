"""For diffusers, where nothing has imported the kit (which must be installed):

DiffusionPipeline.from_pretrained(folder, custom_pipeline="pipeline", trust_remote_code=True)
"""

from ecar_lab.pipeline import ECARPipeline as Pipeline

__all__ = ["Pipeline"]
