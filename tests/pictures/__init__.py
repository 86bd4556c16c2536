"""The README's pictures, made from a run of the demo and from a table: ``make picture``."""

from pathlib import Path

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
DEMO = PICTURES / "demo.svg"
FLOWS = PICTURES / "flows.svg"
PAGE = PICTURES / "page.png"
