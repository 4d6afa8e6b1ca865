"""What labelling writes and how it resumes: the store, the ledger of work, the exported dataset and its card."""
