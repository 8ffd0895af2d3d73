"""The range of a setting. Torch-free."""

from msd_deploy.errors import ConfigError


def check_range(key: str, value: float | None, low: float, high: float) -> None:
    """Check that a setting lies in its range, both ends included; None is always in range.

    Raises:
        ConfigError: It does not; names the key.
    """
    if value is not None and not low <= value <= high:
        raise ConfigError(f"must lie between {low:.10g} and {high:.10g}, not {value!r}", where=key)
