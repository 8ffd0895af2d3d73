"""What an app embeds: a model with the tables, the code and the test vectors of its inputs."""
