"""The deployment on Kubernetes: upstream charts with thin values, and manifests of our own."""
