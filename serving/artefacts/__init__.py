"""Files that training made or that were fetched, as the server reads them."""
