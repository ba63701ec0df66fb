"""The services: they speak only through the topics of penstock.contracts."""
