"""The GraphQL schema, one noun a file. Strawberry is imported nowhere else."""
