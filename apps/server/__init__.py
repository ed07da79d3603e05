"""The door of the live app: who may enter, how much each may ask for, whose turn it is.

Knows Gradio and uvicorn, and nothing of a tab. Begin with ``wiring.py`` (where it is put around a
page), then ``guard.py`` (every request) and ``queue.py`` (every job). ``turns.py`` hands the model
from one visitor to the next in the middle of a run; ``delivery.py`` gives a first visit all that it
needs in a few answers.
"""
