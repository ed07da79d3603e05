"""What stands between the network and the page.

Begin with ``delivery.py``: how a first visit gets all that it needs in a few answers.
"""
