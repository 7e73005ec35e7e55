"""gRPC's own health checks, by the stubs of its package: as probes and balancers ask."""

import json
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

address, model = sys.argv[1:]
found = {}
with grpc.insecure_channel(address) as channel:
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "inference.GRPCInferenceService", model, "nobody"):
        try:
            reply = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=30)
            found[service] = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
        except grpc.RpcError as error:
            found[service] = error.code().name
    try:
        next(iter(health.Watch(health_pb2.HealthCheckRequest(), timeout=30)))
    except grpc.RpcError as error:
        found["watch"] = error.code().name
print(json.dumps(found))
