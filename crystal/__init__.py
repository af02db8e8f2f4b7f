"""crystal: finding and outlining protein crystals in crystallization-drop micrographs."""
