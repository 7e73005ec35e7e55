"""The command line and, under this one name, the packages at the top of the repository.

Here the packages are relative links (docs/decisions/0026-one-name.md).
"""
