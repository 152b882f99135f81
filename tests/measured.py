"""What the metrics of this process say."""

from prometheus_client import REGISTRY


def measured(name: str, **labels: str) -> float:
    """The value of a sample, such as `linli_job_seconds_count`; 0 while there is none."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


def is_measured(name: str, **labels: str) -> bool:
    """Whether there is such a sample."""
    return REGISTRY.get_sample_value(name, labels) is not None
