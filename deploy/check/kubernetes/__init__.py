"""What k8s/deployment.yaml must keep to, and no schema sees."""
