"""Image preparation before the network: CLAHE, colour conversion and letterbox."""
