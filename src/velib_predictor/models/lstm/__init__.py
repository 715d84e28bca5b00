"""LSTM: one recurrent network for all stations reads the last day, and is told where, when and how far ahead."""
