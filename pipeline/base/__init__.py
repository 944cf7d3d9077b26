"""Words, settings, errors, log lines, figures, processes: what every room uses. It knows no other room."""
