"""Backbone: ResNet and the feature pyramid."""
