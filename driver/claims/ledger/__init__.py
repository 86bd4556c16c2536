"""The durable part of claims: one small file for each, and who holds what by them."""
