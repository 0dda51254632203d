"""The parameters folder: plain files, a manifest that reads back, and model.properties for a Java program."""
