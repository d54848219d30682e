"""Devices that become faster or slower: notices it, and says what still holds of earlier measurements."""
