"""What runs → a deployment: commands, scripts, manifests and folders that start engines, read."""
