"""Where damaged records go, so that people can look at them; what they held is told by ``SpecHolds``."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from driver.base import files
from driver.claims.errors import ClaimError, Reason

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Quarantine:
    """A directory of damaged records, each named by its claim's UID."""

    directory: Path
    tell: Callable[[Path, str], None]
    """Gets the new path of a damaged record and what is wrong with it."""

    def take(self, path: str, uid: str, problem: str) -> bool:
        """Move what is in a record's place here, whatever it is; False where it is gone already. Raises ClaimError."""
        target = self.directory / f"{uid}.{uuid.uuid4().hex[:8]}.json"
        try:
            self.directory.mkdir(mode=0o750, exist_ok=True)
            files.rename(path, str(target))
        except FileNotFoundError:
            return False  # the other instance was quicker
        except OSError as error:
            raise ClaimError(
                Reason.RECORD, f"record {path} is damaged ({problem}) and cannot be set aside: {error.strerror}"
            ) from error
        self.tell(target, problem)
        return True

    def by_uid(self) -> dict[str, str]:
        """Paths of the damaged records that are here, by claim UID."""
        return {path.name.partition(".")[0]: str(path) for path in sorted(self.directory.glob("*.json"))}
