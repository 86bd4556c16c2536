"""Processes of ``gpu-dra`` forked from one that has imported it: importing is most of what a start costs.

What runs is ``driver.cli.main`` with a command line, file descriptors and an environment of its own. The e2e tests, the
demo and the benchmarks start ``python -m driver`` itself.
"""
