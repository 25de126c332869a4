"""What people do around training, one package each."""
