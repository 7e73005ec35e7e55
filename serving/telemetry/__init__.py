"""What a server says of itself: metrics, traces, log lines, drift."""
