"""Which requests are worth another try."""

from __future__ import annotations

import tenacity

from driver.kube.client import ApiError

IF_TRANSIENT = tenacity.retry_if_exception(lambda error: isinstance(error, ApiError) and error.transient)
"""For tenacity: what the API server may well answer in a moment."""
