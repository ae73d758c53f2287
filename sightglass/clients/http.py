"""HTTP to the stack's own servers: kept connections, and never through a proxy."""

import requests
from requests.adapters import HTTPAdapter

CONNECTIONS = 64
"""Connections kept for each server; benchmarks and verify ask side by side."""


def _new_session() -> requests.Session:
    made = requests.Session()
    made.trust_env = False
    made.mount("http://", HTTPAdapter(pool_maxsize=CONNECTIONS))
    return made


session = _new_session()
Error = requests.RequestException
Response = requests.Response
