"""From images to outlined crystals, and the files that hold them."""
