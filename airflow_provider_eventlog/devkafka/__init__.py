"""An embedded Kafka for demos and for users' own tests; not for production.

`cluster.start`, `cluster.status` and `cluster.stop` run one or more KRaft brokers on 127.0.0.1 out of PyPI packages
alone (the extra `kafka`: a Java runtime and a resolver for Kafka's jars). `pytest_plugin` gives a test session a
broker. Importing this package loads nothing else.
"""
