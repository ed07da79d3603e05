"""Images for programs: the app without pages, `ecar serve`.

``asked.py`` reads what a request wants, ``batches.py`` computes what waits, several images at a
time, ``door.py`` answers each request, ``server.py`` starts and ends it all. Knows no Gradio.
"""
