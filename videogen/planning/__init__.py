"""What a request will take before it runs: parameters, operations, memory and time, from a configuration."""
