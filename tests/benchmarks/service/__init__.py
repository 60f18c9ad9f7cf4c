"""What the service holds to: ``python -m tests.benchmarks.service [PART…] [--out FILE]``."""
