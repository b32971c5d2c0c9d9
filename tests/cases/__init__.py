"""Small graphs, workspaces, requests and helpers that tests share."""
