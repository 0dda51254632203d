"""safetensors: a header of JSON, then the tensors row by row."""
