"""What operators see: metrics, traces, log lines, drift of the answers."""
