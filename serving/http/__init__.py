"""From bytes on a connection to an answer: the protocol, the ASGI layers, bodies."""
