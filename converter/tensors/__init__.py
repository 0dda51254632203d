"""Storages, tensors and catalogues: what every format is read into and written from."""
