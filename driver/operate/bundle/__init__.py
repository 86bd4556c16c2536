"""``gpu-dra bundle``: one archive that has what whoever reads a bug report asks for, and nothing secret.

What is structured is kept by lists of what may be kept (``keep``). What is free text, such as logs and errors, is
searched for secrets (``scrub``), and so is all the rest once more. What cannot be had is said in ``missing.txt``.
"""
