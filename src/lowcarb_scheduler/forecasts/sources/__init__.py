"""Forecast sources: web services, trace files and synthetic intensities."""
