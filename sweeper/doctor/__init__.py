"""Is this machine, this cluster and this folder fit for a sweep? Probes, each with its finding and a remedy."""

from sweeper.doctor.diagnosis import diagnose
from sweeper.doctor.finding import Finding

__all__ = ["Finding", "diagnose"]
