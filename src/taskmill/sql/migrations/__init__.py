"""Alembic revisions: one change each, safe to repeat. `env.py` is run by Alembic."""
