"""`make bench`: figures measured side by side in one run, as ratios where that is possible, on the machine at hand.

Never a test: a noisy machine makes a figure worse, and no figure makes the code wrong.
"""
