"""What the three trainers share: sums, throughput, cards, label folders, checks of parallel strategies."""
