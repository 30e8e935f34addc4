"""From a copied stack to physical frames."""
