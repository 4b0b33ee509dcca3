"""Methods of others, to compare with: first-order optimisation of whole-image scores."""
