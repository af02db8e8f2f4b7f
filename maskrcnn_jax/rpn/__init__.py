"""Region proposal network: anchors, head, targets, losses and proposals."""
