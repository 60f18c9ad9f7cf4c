"""What the service keeps: documents, jobs, keys and uploads, in SQLite or PostgreSQL."""
