"""Inventories in the forms and schemas that others ask for."""
