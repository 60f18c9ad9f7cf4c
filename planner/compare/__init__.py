"""Plans and deployments side by side under one load, and whether what is asked about keeps its promises."""
