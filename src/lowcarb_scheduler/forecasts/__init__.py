"""Forecast sources, their archive, and the correction and extension of forecasts."""
