"""What long work needs: a cache of results, progress, the machine's description."""
