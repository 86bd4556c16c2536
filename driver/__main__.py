"""``python -m driver`` is ``gpu-dra``."""

from driver.cli import main

main()
