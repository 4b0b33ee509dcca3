"""Metrics, simulated fluoroscopies, studies and reports."""
