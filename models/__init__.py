"""What is computed: models, releases, expressions, policy and personal-data findings."""
