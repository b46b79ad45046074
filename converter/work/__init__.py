"""Long work: jobs in processes of their own, the cache of their results, progress, and the machine that measures."""
