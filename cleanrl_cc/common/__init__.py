"""What the scripts share. Helpers know no algorithm, and each imports only those below it; `errors` is the ground floor."""
