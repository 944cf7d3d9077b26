"""The index: write-once segments, a manifest per generation, and one pointer that moves by compare-and-set.

Nothing in here knows of queues, sources or sinks. FAISS is imported by `ann` alone, so that a process which only reads
manifests stays light.
"""
