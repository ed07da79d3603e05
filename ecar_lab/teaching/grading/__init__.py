"""Grades a learner's notebook: what stands in its exercises, not what it says of itself.

The cells run in a fresh process, from top to bottom, in the fast profile. Right after the cell of
an exercise the kit's own check looks at what the cell defined; the check cells and all printed text
of the notebook are the learner's, and count for nothing.

Begin with :func:`ecar_lab.teaching.grading.grader.grade`; ``submission`` reads a notebook and finds
its exercises, ``judging`` is the process that runs it, ``report`` says what came out.
"""
