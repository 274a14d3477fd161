"""What a log shows of past traffic: accounts, arrivals, prices and repeated prefixes."""
