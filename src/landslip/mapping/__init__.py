"""From a scene and a model to landslides."""
