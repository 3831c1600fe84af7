"""Who may connect and say what: keys on disk, the allow-list, and what keeps strangers out."""
