"""The Open Inference Protocol over gRPC. Needs the extra `grpc`; nothing else imports this."""
