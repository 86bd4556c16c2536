"""``gpu-dra demo``: a story of pods and GPUs, told on a terminal and checked at every step."""

from driver.sim.demo.run import run_demo, serve

__all__ = ["run_demo", "serve"]
