"""``gpu-dra doctor``: what is wrong with a node or a cluster, in plain words, and what to do about it.

Gathering and judging are apart: ``read_node`` and ``read_cluster`` write down what they see in ``state``; the checks
are pure functions from that to findings.
"""
