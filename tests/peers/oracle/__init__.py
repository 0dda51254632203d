"""The oracle: files that are made at random, opened by the real loaders and by us.

Two statements must hold for every file. If any loader asked for a global outside the closed table, our verdict is not
*plain*. If `torch.load(weights_only=True)` gives tensors, ours are the same, or the file is refused. Also, our code
may raise nothing but a ConverterError.

`python -m tests.peers.oracle --help` runs it, in the environment of `make test-peers`; docs/security/oracle.md has the
figures. A loader never imports what a pickle names: its `find_class` writes the name down and returns an empty class
for globals of the closed table; at the first other name it stops. It runs in a process of its own, without a network, in an
empty folder, and only ever opens files that were made here.
"""
