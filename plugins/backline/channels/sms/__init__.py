"""The SMS channel: counts a text's segments, and posts it to a gateway that implements Twilio's message API."""
