"""What dropdex costs, measured; what it would cost at a million and a hundred million documents, computed.

The model is pure functions over measured figures (benchmarks/scale.json), so that another machine's figures give
another machine's prediction. The simulation is the real pipeline with an embedder that sleeps.
"""
