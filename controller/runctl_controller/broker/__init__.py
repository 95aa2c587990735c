"""A RabbitMQ of one's own, for trying things and for the tests: private, and without root."""
