"""The services of Linli, one package each; none imports another."""
