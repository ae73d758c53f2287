"""An example service: the quality of a red wine, estimated from what a laboratory measures of it."""
