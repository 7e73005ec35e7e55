"""Clients of a server: `sync` and `aio` send what `talk` says. Only these two need httpx2."""
