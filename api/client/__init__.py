"""The service from Python: ``from api.client import Client``."""

from api.client.connection import Client, JobCancelled, JobHandle, ServiceAway, ServiceProblem

__all__ = ["Client", "JobCancelled", "JobHandle", "ServiceAway", "ServiceProblem"]
