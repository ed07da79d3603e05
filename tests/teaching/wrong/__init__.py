"""Typical wrong solutions of the exercises, one module per notebook.

``WRONG``: exercise -> [(attempt, words of its diagnosis)]; ``CONTEXT``: exercise -> a function that
makes what the check is given beyond the attempt.
"""
