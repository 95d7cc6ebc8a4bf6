"""The web page: models side by side on one's own images. Knows predictors and reports, not how models are made."""
