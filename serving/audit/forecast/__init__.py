"""What the same traffic would cost in tiers: shares, fleet, rent and the volume from which tiers pay."""
