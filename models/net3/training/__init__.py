"""Training of forecasts and of recoveries."""
