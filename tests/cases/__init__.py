"""Small graphs, workspaces and requests that tests share."""
