"""What is shipped beside the code: pipelines with their data and models, Kafka, Prometheus, locks."""
