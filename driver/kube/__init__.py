"""The API server at our edge: plain dicts in and out."""
