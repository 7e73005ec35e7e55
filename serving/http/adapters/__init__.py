"""The contracts in which predictions can be asked for: each decodes, and encodes the same call."""
