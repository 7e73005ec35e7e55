"""The command line and, under this one name, the packages at the top of the repository.

They are relative links here (docs/decisions/0026-one-name.md).
"""
