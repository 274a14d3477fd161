"""Metrics, spans and the Grafana dashboard. It reads from other rooms, and no room below imports it."""
