"""Stores that are kept by servers: Redis with an index in each client, its vector sets, its cluster; Milvus; and a Redis of one's own."""

from refimpl.retrieve.servers.process import RedisServer

__all__ = ["RedisServer"]
