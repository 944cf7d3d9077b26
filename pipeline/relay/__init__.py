"""From what sources report to hand-overs, and from publications to acknowledgements."""
