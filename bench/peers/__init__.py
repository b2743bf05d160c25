"""Headwater side by side with Chroma, pgvector and LanceDB: same vectors, same k, same recall.

`python -m bench.peers` (or `make bench-peers`) sets up an environment for each peer, runs one
after another and writes a table and a plot to `docs/benchmarks/`. A peer is tuned until it finds
at least what Headwater finds in its normal configuration, with the cheapest setting that does.
What is measured is published, also where a peer wins.
"""
