"""Sends load: clients, workloads, targets and the processes that answer."""
