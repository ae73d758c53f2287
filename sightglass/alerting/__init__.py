"""Alerting: the rules that Prometheus evaluates, made from typed definitions and the file of objectives."""
