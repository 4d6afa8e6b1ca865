"""What makes a loss cheap over a vocabulary; see the README beside this file."""
