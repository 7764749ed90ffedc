"""The API process: GraphQL over HTTP, WebSocket and SSE, health, metrics. Stateless: run as many as needed."""
