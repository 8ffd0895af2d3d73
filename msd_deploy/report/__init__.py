"""Reports for people: pages that ask nothing of any server, and what is drawn on them."""
