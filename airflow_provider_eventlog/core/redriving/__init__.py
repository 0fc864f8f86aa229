"""Redrive: quarantined records run again through the recipe of now, as their batch's next generation."""
