"""What the bytes of protocol buffers hold, before any package parses them."""
