"""The settings of a node that concern its claims."""

from __future__ import annotations

from dataclasses import dataclass

# How long a device may take to be let go by a claim that is ending. Most pods have 30 s before they are killed, and the
# kubelet asks again only after more than a minute.
HOLDER_PATIENCE = 35.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Where claims are prepared, and by which settings."""

    driver: str
    pool: str
    patience: float = HOLDER_PATIENCE
    """Seconds that a device may take to be let go by a claim that is ending."""
    enforce_shares: bool = False
    """Shares are held to what they take even if their class says nothing."""
