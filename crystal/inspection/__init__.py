"""One image followed through the network, stage by stage."""
