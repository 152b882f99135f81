"""PostgreSQL and NATS on this machine, for `linli up`, the tests and the benchmarks; never for production.

`postgres.py` and `nats.py` start one server each; `doctor.py` explains why they would not start. Databases,
roles, streams and accounts inside the servers are made by those who need them.
"""
