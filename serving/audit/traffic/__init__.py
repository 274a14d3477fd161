"""What a log shows of past traffic: accounts, arrivals, prices and prefixes that come again."""
