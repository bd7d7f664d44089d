"""What a run asks of machines (`layout`, `object_store`, `memory`), and the one it is on.

What that computes is in `probe`, what fits it in `fit`, what a run takes on it in `estimate`.
"""
