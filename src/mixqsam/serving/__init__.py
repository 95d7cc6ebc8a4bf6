"""The web page: models side by side on the visitor's images. Uses predictors and reports; does not make models."""
