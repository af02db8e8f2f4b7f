"""Scenes as real imagers show them: plates, drops as objects, faint and crowded crystals, and much that is none."""
