"""Tests of the live app: on pipelines with random weights, with a real server and a real browser.

They import ``apps``, ecar_lab and the helpers here. Begin with ``page.py`` and ``conftest.py``.
"""
