"""One module per peer, run by the Python of that peer's own environment.

Each reads PEER_BUNDLE and PEER_PORT, listens on 127.0.0.1 and answers one picture per request.
"""
