"""GNN: each station's last hours are passed along graphs of stations, then joined with what STID is told."""
