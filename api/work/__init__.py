"""The work behind the service: questions become jobs, jobs are run by processes of their own."""
