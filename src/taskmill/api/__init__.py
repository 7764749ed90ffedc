"""GraphQL, health and metrics over HTTP."""
