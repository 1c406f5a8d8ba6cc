"""Archive of forecasts and actual intensity: cache, last good forecast and history to learn from."""
