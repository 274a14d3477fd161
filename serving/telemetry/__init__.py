"""Metrics, spans and the Grafana dashboard. It looks at other rooms, and no room below knows it."""
