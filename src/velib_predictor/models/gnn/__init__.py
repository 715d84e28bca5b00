"""GNN: what each station's last hours held beyond the usual is passed along a graph of stations, then joined as in STID."""
