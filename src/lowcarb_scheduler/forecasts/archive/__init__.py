"""Archive of forecasts and actual intensity on disk."""
